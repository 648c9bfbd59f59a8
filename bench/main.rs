//! `make bench`: how fast the extension is, as ratios to what else would do the job, measured side by side.
//!
//! Asserts nothing about speed. Prints a table, and writes docs/performance.json, the charts, and the figures of
//! docs/performance.md.
//!
//!   cargo bench --bench ratios -- 1000000           all, with a million tokens
//!   cargo bench --bench ratios -- 10000 sweep mint  only the measurements of these names; writes nothing
//!
//! Lives here: which measurements there are, in which order. They are in `in_server`, `over_socket`, `writes`, `growth`
//! and `load`; what they run against in `servers`, `client` and `sql/`; how pairs are measured in `measure`; what becomes of
//! the figures in `report` and `charts`.

mod charts;
mod client;
#[path = "../tests/common/mod.rs"]
mod common;
mod growth;
mod in_server;
mod load;
mod measure;
mod over_socket;
mod progress;
mod report;
mod servers;
mod writes;

use common::Cluster;
use progress::Progress;
use report::Report;

/// What measurements run on.
pub struct Bench {
    pub cluster: Cluster,
    pub tokens: usize,
    /// Name of the database with `tokens` tokens.
    pub main: String,
    pub progress: Progress,
}

type Measurement = fn(&Bench, &mut Report);

/// In this order: what writes to the main database comes after what only reads it.
const MEASUREMENTS: [(&str, Measurement); 10] = [
    ("validate", in_server::validate),
    ("refuse", in_server::refuse),
    ("socket", over_socket::validate),
    ("mint", writes::mint),
    ("bulk", writes::mint_many),
    ("spend", writes::spend),
    ("sweep", writes::sweep),
    ("growth", growth::grow),
    ("scopes", in_server::scopes),
    ("load", load::mixed),
];

/// How many tokens there are unless somebody wants another number.
const TOKENS: usize = 1_000_000;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let (numbers, names): (Vec<_>, Vec<_>) = words.into_iter().partition(|word| word.parse::<usize>().is_ok());
    let tokens = numbers.first().and_then(|number| number.parse().ok()).unwrap_or(TOKENS);
    assert!((10_000..=10_000_000).contains(&tokens), "between 10000 and 10000000 tokens, please, not {tokens}");
    for name in &names {
        assert!(MEASUREMENTS.iter().any(|(known, _)| known == name), "no measurement is called {name}");
    }

    let progress = Progress::start();
    progress.say("starting a cluster");
    let bench = Bench { cluster: servers::start(), tokens, main: growth::database(tokens), progress };
    let mut report = Report::new(&bench);
    bench.progress.say(&format!("filling {} with {tokens} tokens", bench.main));
    servers::create_main_database(&bench);
    for (name, measure) in MEASUREMENTS {
        if names.is_empty() || names.iter().any(|wanted| wanted == name) {
            bench.progress.say(name);
            measure(&bench, &mut report);
        }
    }
    report.print();
    if names.is_empty() {
        report.write(bench.progress.seconds());
    }
    bench.progress.say("done");
}
