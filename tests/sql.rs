//! The regression files (tests/pg_regress) and isolation specs (tests/isolation), run by PostgreSQL's own drivers.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Cluster, pg_config};

fn names(dir: &Path, extension: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let with_extension = entries.filter(|path| path.extension().is_some_and(|it| it == extension));
    with_extension.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

fn tests_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// A driver of PostgreSQL's, where the server's development files put it.
fn driver(kind: &str, name: &str) -> PathBuf {
    let pgxs = pg_config("--pgxs");
    let here = Path::new(&pgxs).parent().and_then(Path::parent).map(|src| src.join("test").join(kind).join(name));
    // A PostgreSQL that comes without drivers is driven by the distribution's.
    let distribution = Path::new("/usr/lib/postgresql/15/lib/pgxs/src/test").join(kind).join(name);
    here.filter(|path| path.exists()).unwrap_or(distribution)
}

/// Runs the tests in `dir`, psql with `environment` set last, so that it wins over what the driver sets.
fn run_suite(driver: PathBuf, dir: &Path, sources: (&str, &str), cluster: &Cluster, environment: &str, out: &str) {
    let (folder, extension) = sources;
    let tests = names(&dir.join(folder), extension);
    assert!(!tests.is_empty());
    let output_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(out);
    let _ = fs::remove_dir_all(&output_dir);
    fs::create_dir_all(&output_dir).unwrap();
    let output = Command::new(&driver)
        .arg(format!("--bindir={}", pg_config("--bindir")))
        .arg(format!("--inputdir={}", dir.display()))
        .arg(format!("--outputdir={}", output_dir.display()))
        .arg(format!("--host={}", cluster.socket().display()))
        .arg(format!("--launcher=env {environment}"))
        .args(["--user=postgres", "--dbname=regression", "--use-existing"])
        .args(&tests)
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

fn regression_cluster() -> Cluster {
    let cluster = Cluster::start(&[]);
    cluster.connect("postgres").batch_execute("CREATE DATABASE regression TEMPLATE template0").unwrap();
    cluster
}

fn regress(environment: &str, out: &str) {
    let cluster = regression_cluster();
    cluster.connect("regression").batch_execute("CREATE EXTENSION temptoken").unwrap();
    run_suite(
        driver("regress", "pg_regress"),
        &tests_dir().join("pg_regress"),
        ("sql", "sql"),
        &cluster,
        environment,
        out,
    );
}

#[test]
fn every_test_has_its_expected_output_and_none_is_left_over() {
    for (dir, folder, extension) in [("pg_regress", "sql", "sql"), ("isolation", "specs", "spec")] {
        let dir = tests_dir().join(dir);
        assert_eq!(names(&dir.join(folder), extension), names(&dir.join("expected"), "out"), "{dir:?}");
    }
}

#[test]
fn regression_files() {
    regress("", "regress");
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
    regress(one, "regress-one");
    regress(other, "regress-other");
}

#[test]
fn isolation_specs() {
    let cluster = regression_cluster();
    cluster.connect("regression").batch_execute("CREATE EXTENSION temptoken").unwrap();
    let driver = driver("isolation", "pg_isolation_regress");
    run_suite(driver, &tests_dir().join("isolation"), ("specs", "spec"), &cluster, "", "isolation");
}
