//! Which rows form an episode: told from masks and ends alone, the same while recording and when a journal is read again.

use crate::{Error, Result};

/// Where the last next state of an episode is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// Nowhere: the env did not say, and the last state stands in for it.
    Unknown,
    /// In this step's row of the env: the episode was cut, and the env went on.
    Step(u64),
    /// In the row of this number of the end's own arrays.
    End(u32),
}

/// An episode that is over: the rows of one env from step `first` to step `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Episode {
    /// Episodes are numbered in the order in which they ended.
    pub number: u64,
    /// The env.
    pub env: u32,
    /// Step of its first row.
    pub first: u64,
    /// Step of its last row.
    pub last: u64,
    /// It ended by what happened.
    pub terminated: bool,
    /// It was cut.
    pub truncated: bool,
    /// Where its last next state is.
    pub end: Last,
}

impl Episode {
    /// Number of rows, which is the number of transitions.
    pub fn rows(&self) -> usize {
        (self.last - self.first + 1) as usize
    }
}

/// Byte of a step's mask: the row is data.
pub const DATA: u8 = 1;
/// Byte of a step's mask: the row is none, as it would have begun an episode and there are enough. Any other byte: it is none.
pub const LEFT_OUT: u8 = 2;

/// Rows that are no data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Missing {
    /// Left out, as there were enough episodes.
    pub left_out: u64,
    /// All others.
    pub invalid: u64,
}

/// The episodes that run, how many are over, and how many rows are no data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Episodes {
    /// First step of each env's running episode.
    running: Vec<Option<u64>>,
    num_running: usize,
    num_ended: u64,
    next_step: u64,
    missing: Missing,
    longest: u64,
}

impl Episodes {
    /// Nothing runs yet. Episodes are cut after `longest` rows.
    pub fn new(num_envs: usize, longest: u64) -> Result<Self> {
        let mut running = Vec::new();
        running
            .try_reserve_exact(num_envs)
            .map_err(|_| Error::OutOfMemory(format!("no memory for {num_envs} envs")))?;
        running.resize(num_envs, None);
        Ok(Self {
            running,
            num_running: 0,
            num_ended: 0,
            next_step: 0,
            missing: Missing::default(),
            longest: longest.max(1),
        })
    }

    /// Go on where a journal's file began: see `Record::Begin`.
    pub fn restore(running: Vec<Option<u64>>, num_ended: u64, next_step: u64, missing: Missing, longest: u64) -> Self {
        let num_running = running.iter().flatten().count();
        Self { running, num_running, num_ended, next_step, missing, longest: longest.max(1) }
    }

    /// Rows that were no data.
    pub fn missing(&self) -> Missing {
        self.missing
    }

    /// Number of envs.
    pub fn num_envs(&self) -> usize {
        self.running.len()
    }

    /// First step of each env's running episode.
    pub fn running(&self) -> &[Option<u64>] {
        &self.running
    }

    /// Number of envs with a running episode.
    pub fn num_running(&self) -> usize {
        self.num_running
    }

    /// Number of episodes that are over.
    pub fn num_ended(&self) -> u64 {
        self.num_ended
    }

    /// Number of the step that comes next.
    pub fn next_step(&self) -> u64 {
        self.next_step
    }

    /// First step of which a row belongs to a running episode.
    pub fn oldest_running(&self) -> Option<u64> {
        self.running.iter().flatten().min().copied()
    }

    /// Take a step's mask, `[num_envs]`, `DATA` where a row is data; give the episodes that end by it to `over`.
    pub fn step(&mut self, mask: &[u8], mut over: impl FnMut(Episode)) {
        let step = self.next_step;
        self.next_step += 1;
        for (env, &what) in mask.iter().enumerate().take(self.running.len()) {
            let first = self.running[env];
            if what != DATA {
                *(if what == LEFT_OUT { &mut self.missing.left_out } else { &mut self.missing.invalid }) += 1;
                if first.is_some() {
                    over(self.finish(env, step - 1, false, true, Last::Unknown));
                }
                continue;
            }
            if first.is_some_and(|first| step - first >= self.longest) {
                // Cut here, where its true next state is known.
                over(self.finish(env, step - 1, false, true, Last::Step(step)));
            }
            if self.running[env].is_none() {
                self.running[env] = Some(step);
                self.num_running += 1;
            }
        }
    }

    /// End the running episode of an env after the latest step; `None` if it has none.
    pub fn end(&mut self, env: usize, terminated: bool, truncated: bool, end: Last) -> Option<Episode> {
        self.running.get(env).copied().flatten()?;
        Some(self.finish(env, self.next_step - 1, terminated, truncated, end))
    }

    fn finish(&mut self, env: usize, last: u64, terminated: bool, truncated: bool, end: Last) -> Episode {
        let first = self.running[env].take().unwrap_or(last);
        self.num_running -= 1;
        let number = self.num_ended;
        self.num_ended += 1;
        Episode { number, env: env as u32, first, last, terminated, truncated, end }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn masks_and_ends_cut_rows_into_episodes() {
        let mut episodes = Episodes::new(2, 100).unwrap();
        let mut over = Vec::new();
        for mask in [[1, 1], [1, 0], [1, 1]] {
            episodes.step(&mask, |episode| over.push(episode));
        }
        assert_eq!(
            over,
            [Episode { number: 0, env: 1, first: 0, last: 0, terminated: false, truncated: true, end: Last::Unknown }]
        );
        let ended = episodes.end(0, true, false, Last::End(0)).unwrap();
        assert_eq!((ended.number, ended.first, ended.last, ended.rows()), (1, 0, 2, 3));
        assert!(episodes.end(0, true, false, Last::Unknown).is_none());
        assert_eq!((episodes.num_running(), episodes.oldest_running(), episodes.next_step()), (1, Some(2), 3));
    }

    #[test]
    fn an_endless_episode_is_cut_where_its_next_state_is_known() {
        let mut episodes = Episodes::new(1, 3).unwrap();
        let mut over = Vec::new();
        for _ in 0..8 {
            episodes.step(&[1], |episode| over.push((episode.first, episode.last, episode.end)));
        }
        assert_eq!(over, [(0, 2, Last::Step(3)), (3, 5, Last::Step(6))]);
    }

    proptest! {
        /// Every row that is data is in exactly one episode, or in one that runs.
        #[test]
        fn every_row_once(
            steps in prop::collection::vec((prop::collection::vec(0..2_u8, 3), prop::collection::vec(any::<bool>(), 3)), 1..40),
            longest in 1..6_u64,
        ) {
            let mut episodes = Episodes::new(3, longest).unwrap();
            let mut over = Vec::new();
            for (mask, ends) in &steps {
                episodes.step(mask, |episode| over.push(episode));
                for (env, &ends) in ends.iter().enumerate() {
                    if ends { over.extend(episodes.end(env, true, false, Last::Unknown)); }
                }
            }
            let mut count = vec![[0_u8; 3]; steps.len()];
            for episode in &over {
                prop_assert!(episode.rows() as u64 <= longest);
                for step in episode.first..=episode.last { count[step as usize][episode.env as usize] += 1; }
            }
            for (env, first) in episodes.running().iter().enumerate() {
                for step in first.iter().flat_map(|&first| first..steps.len() as u64) { count[step as usize][env] += 1; }
            }
            for (count, (mask, _)) in count.iter().zip(&steps) { prop_assert_eq!(&count[..], &mask[..]); }
            prop_assert!(over.iter().enumerate().all(|(at, episode)| episode.number == at as u64));
        }
    }
}
