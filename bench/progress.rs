//! A line for each step, with the time since the start.

use std::time::Instant;

pub struct Progress {
    begun: Instant,
}

impl Progress {
    pub fn start() -> Self {
        Self { begun: Instant::now() }
    }

    pub fn say(&self, step: &str) {
        eprintln!("bench: {:6.1} s  {step}", self.seconds());
    }

    pub fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }
}
