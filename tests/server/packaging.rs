//! What `make install` installs, beside what cargo-pgrx would.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::{MetadataExt as _, chown, symlink};
use std::path::Path;
use std::process::{Command, Output};

use crate::common::{pg_config, skipped, source_path};

/// The value of `key` in Cargo.toml, without what is around it.
fn cargo_toml(key: &str) -> String {
    let text = fs::read_to_string(source_path("Cargo.toml")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{key} = ")));
    line.unwrap().trim_matches(['"', '=']).to_owned()
}

/// The statements of an SQL file. cargo-pgrx puts comments between the files that it joins.
fn without_comments(sql: &str) -> String {
    let (mut kept, mut in_comment) = (String::new(), false);
    for line in sql.lines().map(str::trim_end) {
        in_comment |= line.starts_with("/*");
        if !in_comment && !line.is_empty() && !line.starts_with("--") {
            kept += line;
            kept += "\n";
        }
        in_comment &= !line.ends_with("*/");
    }
    kept
}

fn installed_sql() -> String {
    let name = format!("extension/temptoken--{}.sql", cargo_toml("version"));
    fs::read_to_string(Path::new(&pg_config("--sharedir")).join(name)).unwrap()
}

#[test]
fn every_sql_file_is_installed() {
    let installed = installed_sql();
    for entry in fs::read_dir(source_path("sql")).unwrap() {
        let path = entry.unwrap().path();
        let sql = without_comments(&fs::read_to_string(&path).unwrap());
        let is_upgrade = path.to_str().unwrap().contains("--");
        assert!(is_upgrade || without_comments(&installed).contains(&sql), "{path:?} is not in the install script");
    }
}

/// `make install` does without cargo-pgrx, which takes minutes to build; `cargo pgrx install` and `package` go on working.
#[test]
fn cargo_pgrx_makes_the_same_install_script() {
    let version = format!("cargo-pgrx {}", cargo_toml("pgrx"));
    let found = Command::new("cargo").args(["pgrx", "--version"]).output().unwrap();
    if String::from_utf8_lossy(&found.stdout).trim() != version {
        return skipped(&format!("{version} is not installed"));
    }
    let major = pg_config("--version").split([' ', '.']).nth(1).unwrap().to_owned();
    let output = Command::new("cargo")
        .args(["pgrx", "schema", "--release", "--skip-build", "--no-default-features", "--features"])
        .args([format!("pg{major}"), format!("pg{major}")])
        .current_dir(source_path(""))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(without_comments(&String::from_utf8(output.stdout).unwrap()), without_comments(&installed_sql()));
}

/// Runs scripts/cluster with a directory of its own. When it goes, no server stays.
struct Demo(tempfile::TempDir);

impl Demo {
    fn run(&self, job: &str) -> Output {
        Command::new(source_path("scripts/cluster")).arg(job).env("TMPDIR", self.0.path()).output().unwrap()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.run("destroy");
    }
}

/// Whoever reaches the socket of the demo's cluster is a superuser there, and runs programs as the user of the server.
#[test]
fn the_cluster_of_the_demo_is_for_one_user_alone() {
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let demo = Demo(tempfile::tempdir().unwrap());
    // What is made here is of the directory's group.
    mode(demo.0.path(), 0o2711);
    let created = demo.run("create");
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    let home = fs::read_dir(demo.0.path()).unwrap().next().unwrap().unwrap().path();
    let permissions = fs::metadata(&home).unwrap();
    assert_eq!(permissions.mode() & 0o777, 0o700);
    assert!(demo.run("destroy").status.success());
    assert!(!home.exists());
    // What somebody else has put there: a directory that others may look into, and a link to one of the right kind.
    let elsewhere = tempfile::tempdir().unwrap();
    chown(elsewhere.path(), Some(permissions.uid()), None).unwrap();
    for is_link in [false, true] {
        if is_link {
            symlink(elsewhere.path(), &home).unwrap();
        } else {
            fs::create_dir(&home).unwrap();
            mode(&home, 0o755);
        }
        for job in ["start", "create", "destroy"] {
            let refused = demo.run(job);
            assert!(String::from_utf8_lossy(&refused.stderr).contains("remove it"), "{refused:?}");
            assert!(!refused.status.success());
            assert_eq!(fs::read_dir(&home).unwrap().count(), 0);
        }
        fs::remove_dir(&home).or_else(|_| fs::remove_file(&home)).unwrap();
    }
}
