//! The look-up over a store, from Rust: halves, interrupts, and that what is asked for is checked before anything is written.

use std::collections::BTreeMap;
use std::sync::Arc;

use iltools_core::motion::{Frame, Key, Kind as Numbers, Motion, Orders, Piece, Request, Run, clips_of};
use iltools_core::store::{Array, Backend, ColumnSpec, DType, Kind, Store, StoreWriter, Trajectory};
use iltools_core::{Error, Result};

const WORLD: Request<'_> = Request {
    clip: &[],
    time: &[],
    offsets: &[0.0],
    frame: Frame::World,
    robot: None,
    origins: None,
    refuses_outside: false,
};
const STATES: usize = 2000;
const WIDTH: usize = 40;

/// A column `x`, whose number j of row i is i + j / 64, exact in every type.
fn store(directory: &std::path::Path, dtype: DType) -> Arc<Store> {
    let value = |i: usize| (i / WIDTH % 16) as f32 + (i % WIDTH) as f32 / 64.0;
    let bytes: Vec<u8> = (0..STATES * WIDTH)
        .flat_map(|i| match dtype {
            DType::Bfloat16 => ((value(i).to_bits() >> 16) as u16).to_ne_bytes().to_vec(),
            _ => value(i).to_ne_bytes().to_vec(),
        })
        .collect();
    let spec = ColumnSpec { key: vec!["x".into()], kind: Kind::State, dtype, shape: vec![WIDTH] };
    let array = Array { spec, rows: STATES, bytes: (&bytes).into() };
    let mut writer = StoreWriter::begin(directory, false, "{}").unwrap();
    let trajectory = Trajectory { task_id: 0, traj_id: 0, name: None, arrays: vec![array], views: vec![] };
    writer.append(trajectory, &|| false).unwrap();
    writer.publish(BTreeMap::new(), &|| false).unwrap();
    Arc::new(Store::open(directory, Backend::Mmap).unwrap())
}

fn motion(store: &Arc<Store>) -> Motion {
    let key = Key::new(store, 0, vec![Run { from: 0, len: WIDTH }], &[Piece { kind: Numbers::Plain, len: WIDTH }]);
    let clips = clips_of(store.segments(), &[10.0]).unwrap();
    Motion::new(Arc::clone(store), clips, vec![key.unwrap()], None, Orders { stored_xyzw: false, wanted_xyzw: false })
}

fn looked_up(motion: &Motion, request: &Request<'_>, interrupted: bool) -> Result<Vec<f32>> {
    let rows = request.clip.len() * request.offsets.len();
    let (mut out, mut valid) = (vec![-1.0_f32; rows * WIDTH], vec![0_u8; rows]);
    let outputs = [(out.as_mut_ptr().cast(), out.len() * 4)];
    let flags = (valid.as_mut_ptr(), valid.len());
    // SAFETY: both vectors are as long as it says, and only read afterwards.
    let done = unsafe { motion.lookup(&[0], request, &outputs, flags, Some(2), &|| interrupted) };
    if done.is_err() && !matches!(done, Err(Error::Interrupted)) {
        assert!(out.iter().all(|value| value.to_bits() == (-1.0_f32).to_bits()));
    }
    done.map(|()| out)
}

#[test]
fn brain_floats_are_widened_before_they_are_mixed() {
    let directory = tempfile::tempdir().unwrap();
    let rounded = |value: f32| f32::from_bits(value.to_bits() >> 16 << 16);
    let store = store(&directory.path().join("store"), DType::Bfloat16);
    let found = looked_up(&motion(&store), &Request { clip: &[0, 0], time: &[0.3, 0.45], ..WORLD }, false).unwrap();
    for j in 0..WIDTH {
        let at = |frame: f32| rounded(frame + j as f32 / 64.0);
        assert_eq!(found[j].to_bits(), at(3.0).to_bits());
        assert!((found[WIDTH + j] - f32::midpoint(at(4.0), at(5.0))).abs() < 1e-6);
    }
}

#[test]
fn a_long_lookup_stops_when_interrupted() {
    let directory = tempfile::tempdir().unwrap();
    let motion = motion(&store(&directory.path().join("store"), DType::Float32));
    let (clip, time) = (vec![0; 1000], vec![0.05; 1000]);
    let offsets = vec![0.0; 1000];
    let request = Request { clip: &clip, time: &time, offsets: &offsets, ..WORLD };
    assert!(matches!(looked_up(&motion, &request, true), Err(Error::Interrupted)));
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(&directory.path().join("store"), DType::Float32);
    let motion = motion(&store);
    let refused = |request: Request<'_>| looked_up(&motion, &request, false).is_err();
    assert!(refused(Request { clip: &[0, 1], time: &[0.0, 0.0], ..WORLD }));
    assert!(refused(Request { clip: &[-1], time: &[0.0], ..WORLD }));
    assert!(refused(Request { clip: &[0], time: &[f64::NAN], ..WORLD }));
    assert!(refused(Request { clip: &[0], time: &[], ..WORLD }));
    assert!(refused(Request { clip: &[0], time: &[0.0], offsets: &[], ..WORLD }));
    assert!(refused(Request { clip: &[0], time: &[0.0], offsets: &[f64::INFINITY], ..WORLD }));
    assert!(refused(Request { clip: &[0], time: &[0.0], frame: Frame::Heading, ..WORLD }));
    assert!(refused(Request { clip: &[0], time: &[0.0], origins: Some(&[0.0; 2]), ..WORLD }));
    assert!(refused(Request { clip: &[0], time: &[1e9], refuses_outside: true, ..WORLD }));
    assert!(!refused(Request { clip: &[0], time: &[1e9], ..WORLD }));

    let whole = |len| vec![Run { from: 0, len }];
    let piece = |kind, len| [Piece { kind, len }];
    assert!(Key::new(&store, 0, whole(WIDTH), &piece(Numbers::Quaternion, WIDTH)).is_ok());
    assert!(Key::new(&store, 9, whole(WIDTH), &piece(Numbers::Plain, WIDTH)).is_err());
    assert!(Key::new(&store, 0, whole(WIDTH + 1), &piece(Numbers::Plain, WIDTH + 1)).is_err());
    assert!(Key::new(&store, 0, vec![Run { from: usize::MAX, len: 2 }], &piece(Numbers::Plain, 2)).is_err());
    assert!(Key::new(&store, 0, whole(WIDTH), &piece(Numbers::Plain, WIDTH - 1)).is_err());
    assert!(Key::new(&store, 0, whole(10), &piece(Numbers::Quaternion, 10)).is_err());
    assert!(Key::new(&store, 0, vec![], &[]).is_err());
    // The next state of a field is asked for by an offset.
    assert!(Key::new(&store, 1, whole(WIDTH), &piece(Numbers::Plain, WIDTH)).is_err());
    for fps in [&[][..], &[0.0], &[f64::NAN], &[1.0, 1.0]] {
        assert!(clips_of(store.segments(), fps).is_err());
    }
}
