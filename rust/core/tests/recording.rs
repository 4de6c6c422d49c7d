//! Recordings: what was recorded is in the store, while it grows, after a kill, and once it is sealed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use iltools_core::Error;
use iltools_core::recording::{End, Ending, KNOWN, Layout, Pace, Recorder, TERMINATED, TRUNCATED};
use iltools_core::store::{Backend, Store, StoreWriter, gather_memory, verify};
use proptest::prelude::*;

const NUM_ENVS: usize = 3;
const AT_ONCE: Pace = Pace { every: Duration::ZERO, bytes: 0 };
const NEVER: Pace = Pace { every: Duration::from_secs(3600), bytes: u64::MAX };

type Script = Vec<(Vec<u8>, Vec<bool>)>;

fn layout(longest: u64, observations: &str) -> Layout {
    let column = |key: &str, kind: &str, dtype: &str, source: &str| {
        format!(r#"{{"key":["{key}"],"kind":"{kind}","dtype":"{dtype}","shape":[1],"source":{source}}}"#)
    };
    let columns = [
        column("observation", observations, "int64", r#"{"journal":0}"#),
        column("action", "transition", "int16", r#"{"journal":1}"#),
        column("sigma", "transition", "uint8", r#"{"repeat":[7]}"#),
        column("env_id", "transition", "int64", r#""env_id""#),
        column("known", "transition", "bool", r#""next_known""#),
        column("terminated", "transition", "bool", r#""terminated""#),
        column("truncated", "transition", "bool", r#""truncated""#),
        column("done", "transition", "bool", r#""done""#),
    ];
    let text = format!(
        r#"{{"num_envs":{NUM_ENVS},"row_bytes":[8,2],"num_states":1,"longest":{longest},"columns":[{}],"views":[],
            "tasks":{{"0":"expert"}}}}"#,
        columns.join(",")
    );
    Layout::parse(&text).unwrap()
}

fn state(env: usize, step: u64) -> i64 {
    (env as u64 * 100_000 + step) as i64
}

/// An episode as it should be: env, steps, what is seen last and whether that is known, how it ended.
#[derive(Debug, Clone, PartialEq)]
struct Expected {
    env: usize,
    first: u64,
    rows: u64,
    last: Option<i64>,
    terminated: bool,
    truncated: bool,
}

/// The rules, row by row.
#[derive(Debug, Default)]
struct Model {
    running: [Option<u64>; NUM_ENVS],
    over: Vec<Expected>,
    next: u64,
    longest: u64,
}

impl Model {
    fn end(&mut self, env: usize, behind: u64, last: Option<i64>, terminated: bool) {
        if let Some(first) = self.running[env].take() {
            let rows = behind - first;
            self.over.push(Expected { env, first, rows, last, terminated, truncated: !terminated });
        }
    }

    fn step(&mut self, mask: &[u8]) {
        for (env, &is_data) in mask.iter().enumerate() {
            if is_data == 0 {
                self.end(env, self.next, None, false);
            } else {
                if self.running[env].is_some_and(|first| self.next - first == self.longest) {
                    self.end(env, self.next, Some(state(env, self.next)), false);
                }
                self.running[env].get_or_insert(self.next);
            }
        }
        self.next += 1;
    }

    fn end_running(&mut self) {
        (0..NUM_ENVS).for_each(|env| self.end(env, self.next, None, false));
    }
}

fn record(recorder: &mut Recorder, model: &mut Model, script: &Script) {
    for (mask, ends) in script {
        let step = model.next;
        let states: Vec<u8> = (0..NUM_ENVS).flat_map(|env| state(env, step).to_le_bytes()).collect();
        let actions: Vec<u8> =
            (0..NUM_ENVS).flat_map(|env| ((env * 1000) as i16 + step as i16).to_le_bytes()).collect();
        recorder.step(mask, &[&states, &actions]).unwrap();
        model.step(mask);
        let ended: Vec<u32> = recorder.running().into_iter().filter(|&env| ends[env as usize]).collect();
        if !ended.is_empty() {
            let how = ended.iter().map(|env| if env % 2 == 0 { TERMINATED | KNOWN } else { TRUNCATED }).collect();
            let last = ended.iter().flat_map(|&env| state(env as usize, 50_000 + step).to_le_bytes()).collect();
            let tasks = vec![0; ended.len()];
            recorder.end(&End { envs: ended.clone(), how, tasks, states: vec![last] }).unwrap();
            for env in ended.into_iter().map(|env| env as usize) {
                let known = env % 2 == 0;
                model.end(env, model.next, known.then(|| state(env, 50_000 + step)), known);
            }
        }
    }
}

fn values(store: &Store, key: &[&str]) -> Vec<i64> {
    let number = store.fields().iter().position(|field| field.key == key).unwrap();
    let index: Vec<i64> = (0..store.num_transitions() as i64).collect();
    let rows = gather_memory(store, &[number], &index, None, &|| false).unwrap();
    let bytes = rows[0].to_vec();
    let width = store.field_bytes(number);
    let wide = |chunk: &[u8]| {
        let mut value = [0; 8];
        value[..width].copy_from_slice(chunk);
        i64::from_le_bytes(value)
    };
    bytes.chunks_exact(width).map(wide).collect()
}

/// Check that a store holds the first so many episodes, and nothing else.
fn assert_holds(store: &Store, expected: &[Expected]) {
    let lengths: Vec<i64> = expected.iter().map(|episode| episode.rows as i64).collect();
    assert_eq!(store.segments().length(), lengths);
    let names: Vec<_> = expected.iter().map(|e| Some(format!("env{}/{}", e.env, e.first))).collect();
    assert_eq!(store.trajectory_names(), names);
    let rows = || expected.iter().flat_map(|e| (0..e.rows).map(move |row| (e, row, row + 1 == e.rows)));
    let all = |value: &dyn Fn(&Expected, u64, bool) -> i64| rows().map(|(e, row, last)| value(e, row, last)).collect();
    let check = |key: &[&str], value: &dyn Fn(&Expected, u64, bool) -> i64| {
        let expected: Vec<i64> = all(value);
        assert_eq!(values(store, key), expected, "{key:?}");
    };
    check(&["observation"], &|e, row, _| state(e.env, e.first + row));
    check(&["next", "observation"], &|e, row, last| {
        let stays = state(e.env, e.first + row);
        if last { e.last.unwrap_or(stays) } else { stays + 1 }
    });
    check(&["action"], &|e, row, _| (e.env as u64 * 1000 + e.first + row) as i64);
    check(&["sigma"], &|_, _, _| 7);
    check(&["env_id"], &|e, _, _| e.env as i64);
    check(&["known"], &|e, _, last| i64::from(!last || e.last.is_some()));
    check(&["terminated"], &|e, _, last| i64::from(last && e.terminated));
    check(&["truncated"], &|e, _, last| i64::from(last && e.truncated));
    check(&["done"], &|_, _, last| i64::from(last));
}

fn open(path: &Path) -> Store {
    Store::open(path, Backend::Mmap).unwrap()
}

fn grow(path: &Path, layout: Layout, pace: Pace) -> Recorder {
    Recorder::grow(StoreWriter::begin(path, false, "{}").unwrap(), layout, pace).unwrap()
}

fn flush(recorder: &Recorder) -> Result<(), Error> {
    let done = recorder.ask_to_publish();
    recorder.progress().wait_until(done, &|| false)
}

fn seal(mut recorder: Recorder) -> Result<(), Error> {
    recorder.end_running().unwrap();
    recorder.finish(Ending::Seal);
    recorder.progress().wait_until(|state| state.is_over && state.failure.is_none(), &|| false)
}

fn journals(path: &Path) -> Vec<PathBuf> {
    let store = open(path);
    let mut files: Vec<PathBuf> = fs::read_dir(store.data_dirs()[0].join("journal"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    files.sort();
    files
}

fn scripts(length: std::ops::Range<usize>) -> impl Strategy<Value = Script> {
    let step = (prop::collection::vec(0..2_u8, NUM_ENVS), prop::collection::vec(any::<bool>(), NUM_ENVS));
    prop::collection::vec(step, length)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, ..ProptestConfig::default() })]

    /// Published while it grows, killed in the middle of a record, gone on with, sealed: each time exactly the rows.
    #[test]
    fn every_row_is_there(
        before in scripts(1..25), after in scripts(1..10), longest in 2..9_u64, torn in 0..90_u64, at_once: bool,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let pace = if at_once { AT_ONCE } else { NEVER };
        let mut recorder = grow(&path, layout(longest, "state"), pace);
        assert_holds(&open(&path), &[]);
        let mut model = Model { longest, ..Model::default() };
        record(&mut recorder, &mut model, &before);
        prop_assert_eq!(recorder.episodes().num_ended(), model.over.len() as u64);
        flush(&recorder).unwrap();
        let attached = open(&path);
        prop_assert!(attached.is_growing());
        assert_holds(&attached, &model.over);
        prop_assert!(verify(&path, |_, _| true).unwrap().is_empty());
        drop(recorder);
        // A kill in the middle of a record, behind what was published.
        let file = journals(&path).pop().unwrap();
        let more = [5_u8; 90];
        std::io::Write::write_all(&mut File::options().append(true).open(&file).unwrap(), &more[..torn as usize]).unwrap();
        let mut resumed = Recorder::resume(&path, None, pace).unwrap();
        model.end_running();
        prop_assert_eq!(resumed.num_rows(), model.over.iter().map(|e| e.rows).sum::<u64>());
        record(&mut resumed, &mut model, &after);
        let ended = model.over.len();
        flush(&resumed).unwrap();
        assert_holds(&open(&path), &model.over[..ended]);
        let uuid = open(&path).uuid().to_owned();
        model.end_running();
        if model.over.is_empty() {
            prop_assert!(matches!(seal(resumed), Err(Error::Schema(_))));
            return Ok(());
        }
        seal(resumed).unwrap();
        let sealed = open(&path);
        prop_assert!(!sealed.is_growing());
        assert_holds(&sealed, &model.over);
        prop_assert_eq!(sealed.uuid(), &uuid);
        prop_assert!(verify(&path, |_, _| true).unwrap().is_empty());
        prop_assert!(!sealed.data_dirs()[0].join("journal").exists() && !sealed.data_dirs()[0].join("names.log").exists());
        // What was attached before still has its rows, and is what a handle of it opens.
        assert_holds(&attached, &model.over[..attached.segments().len()]);
        let prefix = attached.segments().len() as u64;
        let again = Store::open_prefix(&path, attached.uuid(), prefix, Backend::Pread, &|| false).unwrap();
        assert_holds(&again, &model.over[..prefix as usize]);
    }

    /// The same store where it is written at the end.
    #[test]
    fn written_in_the_end(script in scripts(1..25), longest in 2..9_u64) {
        let directory = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::begin(&directory.path().join("journal"), layout(longest, "state")).unwrap();
        let mut model = Model { longest, ..Model::default() };
        record(&mut recorder, &mut model, &script);
        recorder.end_running().unwrap();
        model.end_running();
        prop_assume!(!model.over.is_empty());
        let path = directory.path().join("store");
        recorder.saving().unwrap().write(StoreWriter::begin(&path, false, "{}").unwrap(), &|| false).unwrap();
        assert_holds(&open(&path), &model.over);
    }
}

#[test]
fn journal_files_go_when_nothing_in_them_is_open_and_what_is_left_is_enough() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let mut recorder = grow(&path, layout(1000, "state"), NEVER);
    let mut model = Model { longest: 1000, ..Model::default() };
    // Files are begun by size alone, so it takes some: steps of another shape would not fit this test's model.
    let quiet: Script = vec![(vec![1; 3], vec![false; 3]); 5];
    let ends: Script = vec![(vec![1; 3], vec![true, true, false])];
    for _ in 0..3 {
        record(&mut recorder, &mut model, &quiet);
        record(&mut recorder, &mut model, &ends);
        recorder.next_file().unwrap();
    }
    flush(&recorder).unwrap();
    // Env 2 runs from the first step on.
    assert_eq!(journals(&path).len(), 4);
    record(&mut recorder, &mut model, &vec![(vec![1; 3], vec![true; 3])]);
    recorder.next_file().unwrap();
    record(&mut recorder, &mut model, &quiet);
    flush(&recorder).unwrap();
    assert_eq!(journals(&path).len(), 1);
    assert!(recorder.steps().start > 0);
    drop(recorder);
    let mut resumed = Recorder::resume(&path, Some(r#"{"more": 1}"#), NEVER).unwrap();
    model.end_running();
    assert_eq!(resumed.episodes().num_ended(), model.over.len() as u64);
    record(&mut resumed, &mut model, &ends);
    model.end_running();
    seal(resumed).unwrap();
    assert_holds(&open(&path), &model.over);
    assert_eq!(open(&path).attributes(), r#"{"more": 1}"#);
    assert!(matches!(Recorder::resume(&path, None, NEVER), Err(Error::NotFound(_))));
}

#[test]
fn a_file_that_cannot_be_begun_leaves_the_one_that_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let mut recorder = grow(&path, layout(1000, "state"), NEVER);
    let mut model = Model { longest: 1000, ..Model::default() };
    let some: Script = vec![(vec![1; 3], vec![false, true, false]); 4];
    record(&mut recorder, &mut model, &some);
    let next = recorder.directory().join("0000000001.log");
    assert!(!next.exists() && next.with_file_name("0000000000.log").exists());
    fs::create_dir(&next).unwrap();
    assert!(matches!(recorder.next_file(), Err(Error::Io { .. })));
    record(&mut recorder, &mut model, &some);
    fs::remove_dir(&next).unwrap();
    recorder.next_file().unwrap();
    record(&mut recorder, &mut model, &some);
    drop(recorder);
    let resumed = Recorder::resume(&path, None, NEVER).unwrap();
    model.end_running();
    seal(resumed).unwrap();
    assert_holds(&open(&path), &model.over);
}

#[test]
fn columns_may_change_until_there_are_rows() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let mut recorder = grow(&path, layout(10, "state"), NEVER);
    assert!(open(&path).fields().iter().any(|field| field.key == ["next", "observation"]));
    recorder.set_layout(layout(10, "transition")).unwrap();
    flush(&recorder).unwrap();
    assert!(!open(&path).fields().iter().any(|field| field.key == ["next", "observation"]));
    let mut model = Model { longest: 10, ..Model::default() };
    record(&mut recorder, &mut model, &vec![(vec![1; 3], vec![true; 3])]);
    assert!(matches!(recorder.set_layout(layout(10, "state")), Err(Error::Invalid(_))));
    drop(recorder);
    let resumed = Recorder::resume(&path, None, NEVER).unwrap();
    seal(resumed).unwrap();
    assert_eq!(values(&open(&path), &["observation"]), [0, 100_000, 200_000]);
}

#[test]
fn one_at_a_time_and_a_discarded_one_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let mut recorder = grow(&path, layout(10, "state"), NEVER);
    assert!(matches!(StoreWriter::begin(&path, true, "{}"), Err(Error::Busy(_))));
    assert!(matches!(Recorder::resume(&path, None, NEVER), Err(Error::Busy(_))));
    recorder.finish(Ending::Discard);
    recorder.progress().wait_until(|state| state.is_over, &|| false).unwrap();
    assert!(!path.exists());
    assert!(matches!(Recorder::resume(&path, None, NEVER), Err(Error::NotFound(_))));
}
