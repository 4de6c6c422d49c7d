//! What all numbers of a row are blended by: how far it is between two frames, and from where it is seen.

use super::lanes::Lanes;
use super::slerp::Weight;
use super::turn::Turn;

/// Where w, x, y and z stand in a stored and in a returned quaternion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Orders {
    /// Whether x comes first in the store.
    pub stored_xyzw: bool,
    /// Whether x comes first in what is returned.
    pub wanted_xyzw: bool,
}

impl Orders {
    /// Whether stored quaternions are returned as they are.
    pub fn agree(self) -> bool {
        self.stored_xyzw == self.wanted_xyzw
    }
}

/// How one row comes about.
#[derive(Debug, Clone, Copy)]
pub struct Mix<'a, V: Lanes> {
    /// How far it is from the first frame to the second.
    pub fraction: V::Real,
    /// The quaternions' weights, where there are quaternions and a fraction.
    pub weights: &'a [Weight<V>; 2],
    /// What is done to it.
    pub turn: &'a Turn<V::Real>,
    /// In which order quaternions are stored and wanted.
    pub orders: Orders,
}
