//! Runs the SQL of README.md, block after block, in one psql session on a fresh database.
//!
//! A block ```sql must succeed; a block ```sql fails=CODE must fail with that SQLSTATE.

mod common;

use std::fs;
use std::path::Path;

use common::Cluster;

struct Block {
    line: usize,
    fails: Option<String>,
    sql: String,
}

fn blocks(markdown: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut lines = markdown.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(info) = line.strip_prefix("```sql") else { continue };
        let fails = info.trim().strip_prefix("fails=").map(str::to_owned);
        let body: Vec<&str> = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
        found.push(Block { line: number + 1, fails, sql: body.join("\n") });
    }
    found
}

#[test]
fn the_sql_of_the_readme_does_what_it_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let blocks = blocks(&fs::read_to_string(root.join("README.md")).unwrap());
    assert!(blocks.len() > 10, "the README has examples");
    // psql says after each block which error the last statement that failed in it had, if any.
    let mut script = String::from("\\set VERBOSITY sqlstate\n");
    for block in &blocks {
        script += "\\set LAST_ERROR_SQLSTATE 00000\n";
        script += &block.sql;
        script += &format!("\n\\echo block {} :LAST_ERROR_SQLSTATE\n", block.line);
    }
    let cluster = Cluster::start(&["shared_preload_libraries = 'temptoken'"]);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), script).unwrap();
    let output = cluster.psql("postgres").arg("-f").arg(file.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    for block in &blocks {
        let expected = format!("block {} {}", block.line, block.fails.as_deref().unwrap_or("00000"));
        assert!(
            said.lines().any(|line| line == expected),
            "README.md:{} does not end with {expected:?}\n{said}\n{errors}",
            block.line
        );
    }
}
