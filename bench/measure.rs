//! How pairs are measured: side by side, in turns, several rounds; a ratio a round, and its spread.
//!
//! Lives here: the order of turns and the arithmetic. May not come in here: what is measured.

/// What is measured, given the number of its turn, which no other turn of the same measurement has.
pub type Contestant<'a> = Box<dyn FnMut(usize) -> f64 + 'a>;

/// Runs every contestant once to warm up and then `rounds` times, in turns: A B C, B C A, C A B, ... What each answered,
/// by contestant and round.
pub fn interleave(rounds: usize, contestants: &mut [Contestant<'_>]) -> Vec<Vec<f64>> {
    let count = contestants.len();
    let mut answers = vec![Vec::with_capacity(rounds); count];
    for round in 0..=rounds {
        for place in 0..count {
            let contestant = (round + place) % count;
            let answer = contestants[contestant](round * count + place);
            if round > 0 {
                answers[contestant].push(answer);
            }
        }
    }
    answers
}

/// How the rounds spread: the median, the least and greatest, and the quartiles, between which half of them lie.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    pub quartiles: (f64, f64),
}

impl Spread {
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len() - 1;
        // Between two rounds, as far from each as the share lies.
        let at = |share: f64| {
            let place = share * last as f64;
            let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
            low + (high - low) * place.fract()
        };
        Self { median: at(0.5), min: sorted[0], max: sorted[last], quartiles: (at(0.25), at(0.75)) }
    }
}

pub fn median(values: &[f64]) -> f64 {
    Spread::of(values).median
}

/// What a ratio has to reach, as the project wants it.
#[derive(Clone, Copy)]
pub enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

/// Which way a ratio is read.
#[derive(Clone, Copy)]
pub enum Reading {
    /// Our time over theirs: 1.5 means half as much again.
    Time,
    /// Their time over ours: 3 means three times as fast.
    TimesAsFast,
    /// Our rate over theirs.
    Rate,
    /// Our bytes of WAL over theirs.
    Wal,
}

impl Reading {
    pub fn words(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::TimesAsFast => "times as fast",
            Self::Rate => "rate",
            Self::Wal => "WAL",
        }
    }

    fn of(self, ours: f64, theirs: f64) -> f64 {
        match self {
            Self::TimesAsFast => theirs / ours,
            Self::Time | Self::Rate | Self::Wal => ours / theirs,
        }
    }
}

/// What was measured of one contestant, round by round.
#[derive(Clone)]
pub struct Measured {
    pub name: String,
    pub unit: &'static str,
    pub rounds: Vec<f64>,
}

impl Measured {
    pub fn new(name: impl Into<String>, unit: &'static str, rounds: Vec<f64>) -> Self {
        Self { name: name.into(), unit, rounds }
    }

    pub fn median(&self) -> f64 {
        median(&self.rounds)
    }
}

/// A pair that was measured side by side.
pub struct Pair {
    pub group: &'static str,
    pub reading: Reading,
    pub goal: Option<Goal>,
    pub ours: Measured,
    pub theirs: Measured,
}

impl Pair {
    pub fn new(group: &'static str, reading: Reading, goal: Option<Goal>, ours: &Measured, theirs: &Measured) -> Self {
        Self { group, reading, goal, ours: ours.clone(), theirs: theirs.clone() }
    }

    /// The ratio of each round.
    pub fn ratios(&self) -> Vec<f64> {
        let rounds = self.ours.rounds.iter().zip(&self.theirs.rounds);
        rounds.map(|(ours, theirs)| self.reading.of(*ours, *theirs)).collect()
    }

    pub fn spread(&self) -> Spread {
        Spread::of(&self.ratios())
    }

    /// Whether the median reaches the goal; `None` without a goal.
    pub fn reaches_goal(&self) -> Option<bool> {
        let median = self.spread().median;
        self.goal.map(|goal| match goal {
            Goal::AtMost(most) => median <= most,
            Goal::AtLeast(least) => median >= least,
        })
    }
}
