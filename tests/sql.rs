//! The regression files (tests/pg_regress) and isolation specs (tests/isolation), run by PostgreSQL's own drivers.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::citus::Citus;
use common::{Cluster, pg_config, text};

fn names(dir: &Path, extension: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let with_extension = entries.filter(|path| path.extension().is_some_and(|it| it == extension));
    with_extension.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

fn tests_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// A driver of PostgreSQL's, where the server's development files put it; None where there is none.
fn driver(kind: &str, name: &str) -> Option<PathBuf> {
    let pgxs = pg_config("--pgxs");
    let here = Path::new(&pgxs).parent().and_then(Path::parent).map(|src| src.join("test").join(kind).join(name));
    // A PostgreSQL that comes without drivers is driven by another's.
    let others = (15..=18)
        .rev()
        .map(|major| Path::new(&format!("/usr/lib/postgresql/{major}/lib/pgxs/src/test")).join(kind).join(name));
    let found = here.into_iter().chain(others).find(|path| path.exists());
    if found.is_none() {
        common::skipped(&format!("no PostgreSQL here comes with {name}"));
    }
    found
}

/// A cluster with the extension in database regression.
fn cluster() -> Cluster {
    let cluster = Cluster::start(&[]);
    cluster.connect("postgres").batch_execute("CREATE DATABASE regression TEMPLATE template0").unwrap();
    cluster.connect("regression").batch_execute("CREATE EXTENSION temptoken").unwrap();
    cluster
}

/// Runs these tests in `dir` on the server with this socket, psql with `environment` set last, so that it wins over what the
/// driver sets.
fn run_suite(driver: &Path, dir: &Path, tests: &BTreeSet<String>, environment: &str, socket: &Path, out: &str) {
    assert!(!tests.is_empty());
    let output_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(out);
    let _ = fs::remove_dir_all(&output_dir);
    fs::create_dir_all(&output_dir).unwrap();
    let output = Command::new(driver)
        .arg(format!("--bindir={}", pg_config("--bindir")))
        .arg(format!("--inputdir={}", dir.display()))
        .arg(format!("--outputdir={}", output_dir.display()))
        .arg(format!("--host={}", socket.display()))
        .arg(format!("--launcher=env {environment}"))
        .args(["--user=postgres", "--dbname=regression", "--use-existing"])
        .args(tests)
        .env_remove("RUST_BACKTRACE")
        .output()
        .unwrap_or_else(|error| panic!("{driver:?}: {error}"));
    let diffs = fs::read_to_string(output_dir.join("regression.diffs")).unwrap_or_default();
    assert!(
        output.status.success(),
        "{}{}\n{diffs}\n(environment: {environment})",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn regress(tests: &BTreeSet<String>, environment: &str, socket: &Path, out: &str) {
    if let Some(driver) = driver("regress", "pg_regress") {
        run_suite(&driver, &tests_dir().join("pg_regress"), tests, environment, socket, out);
    }
}

fn regression_tests() -> BTreeSet<String> {
    names(&tests_dir().join("pg_regress/sql"), "sql")
}

#[test]
fn every_test_has_its_expected_output_and_none_is_left_over() {
    for (dir, folder, extension) in [("pg_regress", "sql", "sql"), ("isolation", "specs", "spec")] {
        let dir = tests_dir().join(dir);
        assert_eq!(names(&dir.join(folder), extension), names(&dir.join("expected"), "out"), "{dir:?}");
    }
}

/// All of them, or the one that `make test-sql FILE=…` names. TEMPTOKEN_SERVER is the directory of the socket of a server that
/// runs elsewhere, with the extension in database regression.
#[test]
fn regression_files() {
    let named = std::env::var("TEMPTOKEN_SQL_FILE").ok().filter(|file| !file.is_empty());
    let tests = named.map_or_else(regression_tests, |file| BTreeSet::from([file]));
    match std::env::var_os("TEMPTOKEN_SERVER") {
        Some(socket) => regress(&tests, "", Path::new(&socket), "regress"),
        None => regress(&tests, "", cluster().socket(), "regress"),
    }
}

/// The answers do not depend on the settings of whoever asks.
#[test]
fn regression_files_under_other_settings() {
    let one = "PGTZ=Asia/Kathmandu PGOPTIONS='-c search_path= -c bytea_output=escape -c row_security=off \
               -c plan_cache_mode=force_generic_plan -c intervalstyle=sql_standard'";
    let other = "PGTZ=America/Caracas PGDATESTYLE=German,DMY PGOPTIONS='-c intervalstyle=iso_8601 \
                 -c plan_cache_mode=force_custom_plan -c standard_conforming_strings=off \
                 -c escape_string_warning=off -c default_transaction_isolation=serializable \
                 -c enable_indexscan=off -c enable_bitmapscan=off'";
    regress(&regression_tests(), one, cluster().socket(), "regress-one");
    regress(&regression_tests(), other, cluster().socket(), "regress-other");
}

/// The first example of scale-out.md makes the table of tokens a partitioned one. What the files say holds there too.
#[test]
fn regression_files_on_a_partitioned_table() {
    let example = common::partitioning();
    // Half of all ids to one partition, half to the default one.
    let partition = "CREATE TABLE temptoken.temp_tokens_low PARTITION OF temptoken.temp_tokens
                     FOR VALUES FROM (MINVALUE) TO ('01a00000-0000-0000-0000-000000000000');";
    let cluster = cluster();
    cluster.run_script("regression", &format!("{example}{partition}"));
    regress(&of_tokens(&["scopes"]), "", cluster.socket(), "regress-partitioned");
}

/// As in scale-out.md.
#[test]
fn regression_files_on_a_distributed_table() {
    if let Some(citus) = Citus::start("regression", &[]) {
        // The functions that the files make are for the coordinator alone.
        let environment = "PGOPTIONS='-c citus.enable_ddl_propagation=off'";
        regress(&of_tokens(&[]), environment, citus.coordinator.socket(), "regress-distributed");
    }
}

/// The files about tokens that hold whatever the table of tokens is, and `others`.
fn of_tokens(others: &[&str]) -> BTreeSet<String> {
    let tests = [
        "delete",
        "expiry",
        "identity",
        "introspection",
        "lifecycle",
        "mint",
        "postgrest",
        "refusals",
        "spending",
        "stats",
        "validate",
    ];
    tests.iter().chain(others).map(|&name| name.to_owned()).collect()
}

#[test]
fn isolation_specs() {
    if let Some(driver) = driver("isolation", "pg_isolation_regress") {
        let dir = tests_dir().join("isolation");
        run_suite(&driver, &dir, &names(&dir.join("specs"), "spec"), "", cluster().socket(), "isolation");
    }
}

/// The types of arguments are written in two places: in sql/, and where Rust reads them.
#[test]
fn rust_reads_arguments_of_the_types_that_sql_declares() {
    let cluster = Cluster::with_extension(&[]);
    let mut client = cluster.connect("postgres");
    client
        .batch_execute(
            "CREATE FUNCTION pg_temp.signatures() RETURNS text LANGUAGE c AS 'temptoken', 'temptoken_signatures'",
        )
        .unwrap();
    let mut read: Vec<String> = text(&mut client, "SELECT pg_temp.signatures()").lines().map(str::to_owned).collect();
    read.retain(|line| line != "temptoken_signatures");
    read.sort();
    let declared = text(
        &mut client,
        "SELECT string_agg(line, E'\\n' ORDER BY line COLLATE \"C\") FROM (
             SELECT rtrim(prosrc || ' ' || array_to_string(proargtypes::oid[], ' ')) AS line
             FROM pg_proc WHERE probin LIKE '%temptoken' AND pronamespace <> pg_my_temp_schema()) AS declared",
    );
    assert_eq!(read, declared.lines().collect::<Vec<_>>());
}
