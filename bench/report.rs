//! What was measured, for people and for programs: the table, docs/performance.json, the charts, and the figures of
//! docs/performance.md.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::charts::{self, Bar, Series};
use crate::common::text;
use crate::measure::{Goal, Measured, Pair, Spread};
use crate::servers::{self, Redis};
use crate::{Bench, TOKENS};

/// A table of figures that are no pairs.
pub struct Table {
    pub title: String,
    pub header: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

/// A chart: the name of its file without the ending, what it says to whom cannot see it, and the SVG.
struct Chart {
    name: &'static str,
    title: String,
    svg: String,
}

pub struct Report {
    tokens: usize,
    machine: Vec<(&'static str, String)>,
    pairs: Vec<Pair>,
    tables: Vec<Table>,
    charts: Vec<Chart>,
}

impl Report {
    pub fn new(bench: &Bench) -> Self {
        let tokens = bench.tokens;
        Self { tokens, machine: machine(bench), pairs: Vec::new(), tables: Vec::new(), charts: Vec::new() }
    }

    pub fn add(&mut self, pair: Pair) {
        self.pairs.push(pair);
    }

    pub fn add_table(&mut self, table: Table) {
        self.tables.push(table);
    }

    /// Bars of everything that was `measured`, as ratios to `base`.
    pub fn add_bars(
        &mut self,
        name: &'static str,
        title: &str,
        base: &Measured,
        measured: &[Measured],
        goal: Option<f64>,
    ) {
        let bar = |measured: &Measured| {
            let ratios: Vec<f64> = measured.rounds.iter().zip(&base.rounds).map(|(value, base)| value / base).collect();
            let spread = Spread::of(&ratios);
            let value = format!("{:.2}  ({} {})", spread.median, figure(measured.median()), measured.unit);
            let is_ours = ["temptoken", "validate", "sweep worker"].iter().any(|ours| measured.name.starts_with(ours));
            Bar { name: measured.name.clone(), spread, value, is_ours }
        };
        let bars: Vec<Bar> = measured.iter().map(bar).collect();
        let axis = format!("ratio to: {} (in brackets: this machine)", base.name);
        self.charts.push(Chart { name, title: title.into(), svg: charts::bars(title, &axis, &bars, goal) });
    }

    pub fn add_lines(&mut self, name: &'static str, title: &str, axes: (&str, &str), series: &[Series]) {
        self.charts.push(Chart { name, title: title.into(), svg: charts::lines(title, axes, series) });
    }

    /// The tables, on standard output.
    pub fn print(&self) {
        for table in [self.table_of_pairs()].iter().chain(&self.tables) {
            let cells = || std::iter::once(&table.header).chain(&table.rows);
            let width = |column: usize| cells().map(|row| row[column].chars().count()).max().unwrap_or(0);
            println!("\n{}\n", table.title);
            for row in cells() {
                let padded = row.iter().enumerate().map(|(column, cell)| format!("{cell:<0$}", width(column)));
                println!("{}", padded.collect::<Vec<_>>().join("  ").trim_end());
            }
        }
    }

    fn table_of_pairs(&self) -> Table {
        let row = |pair: &Pair| {
            let spread = pair.spread();
            let goal = match pair.goal {
                Some(Goal::AtMost(most)) => format!("≤ {most}"),
                Some(Goal::AtLeast(least)) => format!("≥ {least}"),
                None => String::new(),
            };
            let reached = match pair.reaches_goal() {
                Some(true) => "yes",
                Some(false) => "no",
                None => "",
            };
            let absolute = |measured: &Measured| format!("{} {}", figure(measured.median()), measured.unit);
            vec![
                pair.group.to_owned(),
                pair.ours.name.clone(),
                pair.theirs.name.clone(),
                pair.reading.words().to_owned(),
                // A digit more than goals have.
                format!("{:.3}", spread.median),
                format!("{:.2} to {:.2}", spread.quartiles.0, spread.quartiles.1),
                goal,
                reached.to_owned(),
                absolute(&pair.ours),
                absolute(&pair.theirs),
            ]
        };
        Table {
            title: format!("Ratios, with {} tokens (the last two columns: this machine)", grouped(self.tokens as f64)),
            header: [
                "",
                "this",
                "against",
                "ratio of",
                "median",
                "quartiles",
                "goal",
                "reached",
                "this took",
                "that took",
            ]
            .map(str::to_owned)
            .to_vec(),
            rows: self.pairs.iter().map(row).collect(),
        }
    }

    /// Writes everything into docs/: a run of the usual size into performance.md, any other into a page of its own.
    pub fn write(&self, seconds: f64) {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
        for chart in &self.charts {
            fs::write(docs.join(self.file(chart.name, "svg")), &chart.svg).unwrap();
        }
        let json = serde_json::to_string_pretty(&self.json(seconds)).unwrap();
        fs::write(docs.join(self.file("performance", "json")), json + "\n").unwrap();
        let page = docs.join(self.file("performance", "md"));
        let text = fs::read_to_string(&page).unwrap_or_else(|_| self.empty_page());
        let (head, rest) = text.split_once(BEGIN).expect("the page has the mark where figures begin");
        let (_, tail) = rest.split_once(END).expect("the page has the mark where figures end");
        fs::write(&page, format!("{head}{BEGIN}\n{}{END}{tail}", self.markdown(seconds))).unwrap();
    }

    /// The name of a file in docs/.
    fn file(&self, name: &str, ending: &str) -> String {
        if self.tokens == TOKENS { format!("{name}.{ending}") } else { format!("{name}-{}.{ending}", self.tokens) }
    }

    fn empty_page(&self) -> String {
        let tokens = grouped(self.tokens as f64);
        format!(
            "# Performance with {tokens} tokens\n\nHow it is measured: [performance.md](performance.md).\n\n{BEGIN}\n{END}\n"
        )
    }

    fn json(&self, seconds: f64) -> Value {
        let measured =
            |measured: &Measured| json!({"name": measured.name, "unit": measured.unit, "rounds": measured.rounds});
        let pair = |pair: &Pair| {
            let spread = pair.spread();
            json!({
                "group": pair.group,
                "ratio_of": pair.reading.words(),
                "median": spread.median,
                "quartiles": [spread.quartiles.0, spread.quartiles.1],
                "min": spread.min,
                "max": spread.max,
                "goal": pair.goal.map(|goal| match goal {
                    Goal::AtMost(most) => json!({"at_most": most}),
                    Goal::AtLeast(least) => json!({"at_least": least}),
                }),
                "reached": pair.reaches_goal(),
                "this": measured(&pair.ours),
                "against": measured(&pair.theirs),
            })
        };
        let table = |table: &Table| json!({"title": table.title, "header": table.header, "rows": table.rows});
        let machine: serde_json::Map<String, Value> =
            self.machine.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        json!({
            "tokens": self.tokens,
            "seconds": seconds.round(),
            "machine": machine,
            "settings": servers::settings(),
            "pairs": self.pairs.iter().map(pair).collect::<Vec<_>>(),
            "tables": self.tables.iter().map(table).collect::<Vec<_>>(),
        })
    }

    fn markdown(&self, seconds: f64) -> String {
        let mut page = format!("\nOne run of {:.0} minutes on this machine:\n\n| | |\n|---|---|\n", seconds / 60.0);
        for (name, value) in &self.machine {
            page += &format!("| {name} | {value} |\n");
        }
        for chart in &self.charts {
            page += &format!("\n![{}]({})\n", chart.title, self.file(chart.name, "svg"));
        }
        for table in [self.table_of_pairs()].iter().chain(&self.tables) {
            page += &format!("\n### {}\n\n", table.title);
            page += &format!("| {} |\n|{}\n", table.header.join(" | "), "---|".repeat(table.header.len()));
            for row in &table.rows {
                page += &format!("| {} |\n", row.join(" | "));
            }
        }
        page + "\n"
    }
}

const BEGIN: &str = "<!-- figures: written by `make bench` -->";
const END: &str = "<!-- end of figures -->";

/// What the figures were measured on.
fn machine(bench: &Bench) -> Vec<(&'static str, String)> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    let memory: f64 = field(&read("/proc/meminfo"), "MemTotal")
        .and_then(|text| text.split(' ').next()?.parse().ok())
        .unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = Command::new("uname").arg("-sr").output().map(|output| output.stdout).unwrap_or_default();
    vec![
        ("processor", field(&read("/proc/cpuinfo"), "model name").unwrap_or_default()),
        ("cores", cores.to_string()),
        ("memory", format!("{:.0} GB", memory / 1024.0 / 1024.0)),
        ("system", String::from_utf8_lossy(&kernel).trim().to_owned()),
        ("PostgreSQL", text(&mut bench.cluster.connect("postgres"), "SHOW server_version")),
        ("Redis", Redis::version()),
        ("load when it began", read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned()),
    ]
}

/// A figure in as many digits as mean something.
fn figure(value: f64) -> String {
    if value < 10.0 {
        format!("{value:.2}")
    } else if value < 100.0 {
        format!("{value:.1}")
    } else {
        grouped(value)
    }
}

/// A whole number with its thousands set apart.
pub fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The medians of lines as a table: a row for each x.
pub fn table_of_lines(title: &str, x: &str, lines: &[Series]) -> Table {
    let row = |at: usize| {
        let values = lines.iter().map(|line| figure(line.points[at].1));
        std::iter::once(grouped(lines[0].points[at].0)).chain(values).collect()
    };
    Table {
        title: title.into(),
        header: std::iter::once(x.to_owned()).chain(lines.iter().map(|line| line.name.clone())).collect(),
        rows: (0..lines[0].points.len()).map(row).collect(),
    }
}
