//! Frames of reference: what is done to a row of the world to see it from the robot, along its heading, or from the anchor.

use super::lanes::{Lanes, Real};

/// Below this length of the horizontal part of a turned x axis there is no heading.
const LEAST_HORIZONTAL: f64 = 1e-6;

/// What happens to positions, vectors and rotations of one row.
#[derive(Debug, Clone, Copy)]
pub enum Turn<R> {
    /// Nothing.
    Stay,
    /// Positions are moved by so much.
    Shift([R; 3]),
    /// A turn about the vertical through one point, then a move to another; heights stay.
    Heading {
        /// Cosine and sine of the turn.
        turn: [R; 2],
        /// Cosine and sine of half of it.
        half: [R; 2],
        /// The point that is turned about.
        from: [R; 2],
        /// Where that point comes to lie.
        to: [R; 2],
    },
    /// Any turn about a point, which becomes the origin.
    Free {
        /// The turn as a quaternion wxyz.
        quaternion: [R; 4],
        /// The same as a matrix, row by row.
        matrix: [[R; 3]; 3],
        /// The point.
        from: [R; 3],
    },
}

impl Turn<f64> {
    /// The turn about the vertical that `[cosine, sine]` says, from one point to another.
    pub fn heading([cosine, sine]: [f64; 2], from: [f64; 2], to: [f64; 2]) -> Self {
        // The larger of both halves first: the other one is then exact, too.
        let half = if cosine >= 0.0 {
            let w = f64::midpoint(1.0, cosine).sqrt();
            [w, sine / (2.0 * w)]
        } else {
            let z = f64::midpoint(1.0, -cosine).sqrt().copysign(sine);
            [sine / (2.0 * z), z]
        };
        Self::Heading { turn: [cosine, sine], half, from, to }
    }

    /// What an observer at a pose sees, who looks along its axes.
    pub fn seen_from(position: [f64; 3], rotation: [f64; 4]) -> Self {
        let length = rotation.iter().map(|x| x * x).sum::<f64>().sqrt();
        let [w, x, y, z] = rotation.map(|x| x / length);
        let (x, y, z) = (-x, -y, -z);
        let matrix = [
            [1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - w * z), 2.0 * (x * z + w * y)],
            [2.0 * (x * y + w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - w * x)],
            [2.0 * (x * z - w * y), 2.0 * (y * z + w * x), 1.0 - 2.0 * (x * x + y * y)],
        ];
        Self::Free { quaternion: [w, x, y, z], matrix, from: position }
    }

    /// The same turn in another type.
    #[inline(always)]
    pub fn cast<R: Real>(&self) -> Turn<R> {
        match *self {
            Self::Stay => Turn::Stay,
            Self::Shift(by) => Turn::Shift(by.map(R::of)),
            Self::Heading { turn, half, from, to } => {
                Turn::Heading { turn: turn.map(R::of), half: half.map(R::of), from: from.map(R::of), to: to.map(R::of) }
            }
            Self::Free { quaternion, matrix, from } => Turn::Free {
                quaternion: quaternion.map(R::of),
                matrix: matrix.map(|row| row.map(R::of)),
                from: from.map(R::of),
            },
        }
    }
}

/// Cosine and sine of the heading of a rotation wxyz of any length: of its turned x axis' horizontal part. `None` where there is
/// none; NaN where the rotation is.
pub fn heading_of([w, x, y, z]: [f64; 4]) -> Option<[f64; 2]> {
    let square = w * w + x * x + y * y + z * z;
    let (along, across) = ((w * w + x * x - y * y - z * z) / square, 2.0 * (x * y + w * z) / square);
    let length = along.hypot(across);
    if length < LEAST_HORIZONTAL { None } else { Some([along / length, across / length]) }
}

/// The Hamilton product of two quaternions wxyz: first the right one, then the left one.
pub fn product([w, x, y, z]: [f64; 4], [a, b, c, d]: [f64; 4]) -> [f64; 4] {
    [
        w * a - x * b - y * c - z * d,
        w * b + x * a + y * d - z * c,
        w * c - x * d + y * a + z * b,
        w * d + x * c - y * b + z * a,
    ]
}

impl<R: Real> Turn<R> {
    /// Eight positions.
    #[inline(always)]
    pub fn positions<V: Lanes<Real = R>>(&self, [x, y, z]: [V; 3]) -> [V; 3] {
        match *self {
            Self::Stay => [x, y, z],
            Self::Shift(by) => [x.add(V::splat(by[0])), y.add(V::splat(by[1])), z.add(V::splat(by[2]))],
            Self::Heading { turn, from, to, .. } => {
                let (x, y) = (x.sub(V::splat(from[0])), y.sub(V::splat(from[1])));
                let [x, y] = turned(turn, [x, y]);
                [x.add(V::splat(to[0])), y.add(V::splat(to[1])), z]
            }
            Self::Free { matrix, from, .. } => {
                let [x, y, z] = [x.sub(V::splat(from[0])), y.sub(V::splat(from[1])), z.sub(V::splat(from[2]))];
                [along(matrix[0], [x, y, z]), along(matrix[1], [x, y, z]), along(matrix[2], [x, y, z])]
            }
        }
    }

    /// Eight vectors.
    #[inline(always)]
    pub fn vectors<V: Lanes<Real = R>>(&self, [x, y, z]: [V; 3]) -> [V; 3] {
        match *self {
            Self::Stay | Self::Shift(_) => [x, y, z],
            Self::Heading { turn, .. } => {
                let [x, y] = turned(turn, [x, y]);
                [x, y, z]
            }
            Self::Free { matrix, .. } => {
                [along(matrix[0], [x, y, z]), along(matrix[1], [x, y, z]), along(matrix[2], [x, y, z])]
            }
        }
    }

    /// Eight rotations wxyz.
    #[inline(always)]
    pub fn rotations<V: Lanes<Real = R>>(&self, [w, x, y, z]: [V; 4]) -> [V; 4] {
        match *self {
            Self::Stay | Self::Shift(_) => [w, x, y, z],
            Self::Heading { half, .. } => {
                let (p, s) = (V::splat(half[0]), V::splat(half[1]));
                [s.fnma(z, p.mul(w)), s.fnma(y, p.mul(x)), s.fma(x, p.mul(y)), s.fma(w, p.mul(z))]
            }
            Self::Free { quaternion, .. } => {
                let [a, b, c, d] = quaternion;
                let (a, b, c, d) = (V::splat(a), V::splat(b), V::splat(c), V::splat(d));
                [
                    d.fnma(z, c.fnma(y, b.fnma(x, a.mul(w)))),
                    d.fnma(y, c.fma(z, b.fma(w, a.mul(x)))),
                    d.fma(x, c.fma(w, b.fnma(z, a.mul(y)))),
                    d.fma(w, c.fnma(x, b.fma(y, a.mul(z)))),
                ]
            }
        }
    }

    /// Whether everything stays what it is.
    #[inline(always)]
    pub fn is_still(&self) -> bool {
        matches!(self, Self::Stay)
    }

    /// Whether vectors and rotations stay what they are.
    #[inline(always)]
    pub fn keeps_vectors(&self) -> bool {
        matches!(self, Self::Stay | Self::Shift(_))
    }
}

#[inline(always)]
fn turned<V: Lanes>([cosine, sine]: [V::Real; 2], [x, y]: [V; 2]) -> [V; 2] {
    let (c, s) = (V::splat(cosine), V::splat(sine));
    [s.fnma(y, c.mul(x)), s.fma(x, c.mul(y))]
}

#[inline(always)]
fn along<V: Lanes>(row: [V::Real; 3], [x, y, z]: [V; 3]) -> V {
    V::splat(row[2]).fma(z, V::splat(row[1]).fma(y, V::splat(row[0]).mul(x)))
}
