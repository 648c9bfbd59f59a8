//! Throwaway clusters for tests that drive a real server from outside.
//!
//! PG_CONFIG chooses the PostgreSQL; without it, scripts/pg-config does. The extension must be installed into it, which
//! `make test` does. As root, servers run as the user postgres, since PostgreSQL refuses to run as root.

#![allow(dead_code)]

pub mod citus;

use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use postgres::{Client, NoTls, SimpleQueryMessage};
use tempfile::TempDir;

/// How long a test waits for what should come in a moment: longer than a busy machine takes.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What `pg_config OPTION` prints.
pub fn pg_config(option: &str) -> String {
    static PROGRAM: OnceLock<String> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| output(&mut Command::new(source_path("scripts/pg-config"))));
    output(Command::new(program).arg(option))
}

/// What `command` prints, without the line's end.
fn output(command: &mut Command) -> String {
    String::from_utf8(run(command).stdout).unwrap().trim().to_owned()
}

/// A file or directory of this repository.
pub fn source_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The library under test, where `make install` puts it.
pub fn installed_library() -> PathBuf {
    Path::new(&pg_config("--pkglibdir")).join("temptoken.so")
}

/// Ends the whole program if the installed library is older than its sources: the tests would judge another one.
fn require_current_library() {
    static CHECKED: OnceLock<()> = OnceLock::new();
    CHECKED.get_or_init(|| {
        let library = installed_library();
        let installed_at = changed_at(&library).unwrap_or(SystemTime::UNIX_EPOCH);
        for source in ["src", "sql", "Cargo.toml", "Cargo.lock", "temptoken.control"] {
            if changed_at(&source_path(source)).unwrap() > installed_at {
                say(&format!("{} is missing or older than {source}: run `make install`", library.display()));
                std::process::exit(1);
            }
        }
    });
}

/// When this file, or any in this directory, was last changed.
fn changed_at(path: &Path) -> Option<SystemTime> {
    let metadata = fs::metadata(path).ok()?;
    if metadata.is_file() {
        return metadata.modified().ok();
    }
    fs::read_dir(path).ok()?.filter_map(|entry| changed_at(&entry.ok()?.path())).max()
}

/// Whether the PostgreSQL under test comes with this program: some packagings leave a few out.
pub fn has_program(name: &str) -> bool {
    Path::new(&pg_config("--bindir")).join(name).exists()
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// A program to be run as root. As another user this asks sudo, which answers no rather than for a password.
pub fn root_program(name: &str) -> Command {
    let mut command = Command::new(if is_root() { name } else { "sudo" });
    if !is_root() {
        command.args(["-n", name]);
    }
    command
}

/// Gives this directory to the user that servers run as.
pub fn give_to_server(dir: &Path) {
    if is_root() {
        run(Command::new("chown").arg("postgres").arg(dir));
    }
}

/// A program to be run as the user that servers run as.
pub fn as_server_user(program: impl AsRef<Path>) -> Command {
    if !is_root() {
        return Command::new(program.as_ref());
    }
    let mut command = Command::new("runuser");
    command.args(["-u", "postgres", "--"]).arg(program.as_ref());
    command
}

/// A program of PostgreSQL, to be run as the user that servers run as.
fn server_program(name: &str) -> Command {
    let mut command = as_server_user(Path::new(&pg_config("--bindir")).join(name));
    // What a developer's shell sets must not change what a server answers.
    command.env_remove("RUST_BACKTRACE").current_dir("/");
    command
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

const PRELOADED: [&str; 2] = ["shared_preload_libraries = 'temptoken'", "temptoken.sweep_interval = 1s"];

/// A server of its own in a directory of its own; stopped and removed when dropped.
pub struct Cluster {
    dir: TempDir,
}

impl Cluster {
    /// A new, running cluster with these lines added to postgresql.conf.
    pub fn start(settings: &[&str]) -> Self {
        let cluster = Self::new_dir();
        cluster.init(settings);
        cluster.launch();
        cluster
    }

    fn init(&self, settings: &[&str]) {
        static INITIALIZED: OnceLock<PathBuf> = OnceLock::new();
        copy_all(INITIALIZED.get_or_init(Self::initialized), &self.data());
        self.configure(settings);
    }

    /// A data directory fresh from initdb, to be copied: initdb takes a second of a processor's time, a copy a few
    /// hundredths. It is kept for the next run with this PostgreSQL and this user.
    fn initialized() -> PathBuf {
        let mut hasher = DefaultHasher::new();
        (["--bindir", "--version", "--configure"].map(pg_config), is_root()).hash(&mut hasher);
        let kept = temporary_path(&format!("initdb-{:016x}", hasher.finish()));
        if !kept.exists() {
            let new = Self::new_dir();
            new.run_initdb();
            // Another program may do the same now: the name appears when all is there.
            let copy = temporary_path(&format!("initdb-{}", std::process::id()));
            copy_all(&new.data(), &copy);
            if fs::rename(&copy, &kept).is_err() {
                fs::remove_dir_all(&copy).unwrap();
            }
        }
        kept
    }

    fn run_initdb(&self) {
        run(server_program("initdb")
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(self.data()));
    }

    /// A new cluster with the library preloaded, a sweep every second, and the extension in database postgres.
    pub fn with_extension(settings: &[&str]) -> Self {
        let cluster = Self::start(&[&PRELOADED, settings].concat());
        cluster.connect("postgres").batch_execute("CREATE EXTENSION temptoken").unwrap();
        cluster
    }

    /// The same, with what initdb makes for this one alone. Others are copies.
    pub fn of_its_own() -> Self {
        let cluster = Self::new_dir();
        cluster.run_initdb();
        cluster.configure(&PRELOADED);
        cluster.launch();
        cluster.connect("postgres").batch_execute("CREATE EXTENSION temptoken").unwrap();
        cluster
    }

    /// A hot standby of this cluster that streams from it.
    pub fn standby(&self) -> Self {
        let standby = Self::new_dir();
        run(server_program("pg_basebackup")
            .args(["-R", "--no-sync", "-c", "fast", "-U", "postgres", "-h"])
            .arg(self.dir.path())
            .arg("-D")
            .arg(standby.data()));
        standby.configure(&[]);
        standby.launch();
        standby
    }

    fn new_dir() -> Self {
        require_current_library();
        // Short, since the socket lies in it, and for the server alone: whoever reaches the socket is a superuser.
        let dir = tempfile::Builder::new().prefix("temptoken-test-").tempdir_in("/tmp").unwrap();
        give_to_server(dir.path());
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        Self { dir }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Adds lines to postgresql.conf; they hold from the next start or reload.
    pub fn configure(&self, settings: &[&str]) {
        let path = self.data().join("postgresql.conf");
        let mut conf = fs::read_to_string(&path).unwrap();
        let socket = format!("unix_socket_directories = '{}'", self.dir.path().display());
        for line in ["listen_addresses = ''", &socket, "fsync = off", "max_connections = 120"].iter().chain(settings) {
            writeln!(conf, "{line}").unwrap();
        }
        fs::write(&path, conf).unwrap();
    }

    fn pg_ctl(&self, arguments: &[&str]) -> Output {
        let mut command = server_program("pg_ctl");
        command.arg("-D").arg(self.data()).args(["-s", "-w", "-t", "60"]).args(arguments);
        run(&mut command)
    }

    fn launch(&self) {
        self.start_with("");
    }

    /// Starts a stopped cluster with these options for the server's command line.
    pub fn start_with(&self, options: &str) {
        assert!(self.try_start(options), "the server does not start:\n{}", self.log());
    }

    /// Starts a stopped cluster with these variables in the server's environment.
    pub fn start_in(&self, environment: &[(&str, &str)]) {
        let started = self.start_command("").envs(environment.iter().copied()).status().unwrap().success();
        assert!(started, "the server does not start:\n{}", self.log());
    }

    /// As [`Self::start_with`]; whether it did.
    pub fn try_start(&self, options: &str) -> bool {
        self.start_command(options).status().unwrap().success()
    }

    fn start_command(&self, options: &str) -> Command {
        // pg_ctl's output would keep our pipe open as long as the server runs: it goes to the log.
        let log = self.log_path().display().to_string();
        let mut command = server_program("pg_ctl");
        command.arg("-D").arg(self.data()).args(["-s", "-w", "-t", "60", "-l", &log, "-o", options, "start"]);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        command
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// Starts a stopped cluster.
    pub fn start_again(&self) {
        self.launch();
    }

    /// Stops the cluster (`fast`, `immediate`); fails the test if that takes a minute.
    pub fn stop(&self, mode: &str) {
        self.pg_ctl(&["-m", mode, "stop"]);
    }

    /// Kills the postmaster as a power cut would, and starts the cluster again once its processes are gone.
    pub fn crash(&self) {
        self.kill_postmaster();
        wait_until("the cluster starts again", || self.try_start(""));
    }

    /// Kills the postmaster, and leaves its processes to notice.
    pub fn kill_postmaster(&self) {
        signal(&self.postmaster_pid(), "KILL");
    }

    /// The process id of the postmaster.
    pub fn postmaster_pid(&self) -> String {
        let file = fs::read_to_string(self.data().join("postmaster.pid")).unwrap();
        file.lines().next().unwrap().to_owned()
    }

    /// Has the server read its configuration again.
    pub fn reload(&self) {
        self.pg_ctl(&["reload"]);
    }

    /// Everything that the server has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// How many rows workers have removed from `database`, as the log says.
    pub fn rows_logged(&self, database: &str) -> u64 {
        let swept = format!("temptoken: swept database \"{database}\": ");
        let rows = |line: &str| line.split_once(&swept)?.1.split(' ').next()?.parse::<u64>().ok();
        self.log().lines().filter_map(rows).sum()
    }

    /// The directory of the socket, for client programs.
    pub fn socket(&self) -> &Path {
        self.dir.path()
    }

    /// A connection as the superuser.
    pub fn connect(&self, database: &str) -> Client {
        self.connect_as("postgres", database)
    }

    /// A connection as the superuser, if the server takes one now.
    pub fn try_connect(&self, database: &str) -> Option<Client> {
        self.config("postgres", database).connect(NoTls).ok()
    }

    /// A connection as `user` with these options of the command line, if the server takes it.
    pub fn try_connect_with(&self, user: &str, options: &str) -> Option<Client> {
        self.config(user, "postgres").options(options).connect(NoTls).ok()
    }

    /// Kills a backend, which takes the whole cluster through crash recovery.
    pub fn kill_backend(&self, pid: &str) {
        signal(pid, "KILL");
        wait_until("the server has noticed", || self.log().contains("terminated by signal 9"));
    }

    /// A connection as `user`.
    pub fn connect_as(&self, user: &str, database: &str) -> Client {
        self.config(user, database).connect(NoTls).unwrap_or_else(|error| panic!("{error:?}\n{}", self.log()))
    }

    fn config(&self, user: &str, database: &str) -> postgres::Config {
        let mut config = postgres::Config::new();
        config.host_path(self.dir.path()).user(user).dbname(database).application_name("test");
        // A test that hangs says where.
        config.options("-c statement_timeout=60s");
        config
    }

    /// Whether any file of the cluster, its WAL and its log included, contains these bytes.
    pub fn files_contain(&self, needle: &[u8]) -> bool {
        fn search(dir: &Path, finder: &dyn Fn(&[u8]) -> bool) -> bool {
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()).any(|entry| {
                let kind = entry.file_type().unwrap();
                (kind.is_dir() && search(&entry.path(), finder))
                    || (kind.is_file() && fs::read(entry.path()).is_ok_and(|bytes| finder(&bytes)))
            })
        }
        let (first, rest) = needle.split_first().unwrap();
        search(self.dir.path(), &|bytes: &[u8]| {
            bytes.iter().enumerate().any(|(at, byte)| byte == first && bytes[at + 1..].starts_with(rest))
        })
    }

    /// Dumps `from` in the custom format, and restores it into `to`.
    pub fn dump_and_restore(&self, from: &str, to: &str) {
        let file = self.dir.path().join("dump");
        let connection = ["-U", "postgres", "-h", self.dir.path().to_str().unwrap()];
        run(server_program("pg_dump").args(connection).args(["-Fc", "-f"]).arg(&file).arg(from));
        run(server_program("pg_restore").args(connection).args(["-e", "-d", to]).arg(&file));
    }

    /// Moves this cluster, which must be stopped, into a new one by pg_upgrade.
    pub fn upgrade(&self) -> Self {
        let new = Self::new_dir();
        new.init(&PRELOADED);
        let bin = pg_config("--bindir");
        let mut command = server_program("pg_upgrade");
        command.args(["-U", "postgres", "-b", &bin, "-B", &bin]);
        command.arg("-d").arg(self.data()).arg("-D").arg(new.data()).arg("-s").arg(new.dir.path());
        run(command.current_dir(new.dir.path()));
        new.launch();
        new
    }

    /// What pg_dump writes of `database`.
    pub fn dump(&self, database: &str) -> String {
        let mut command = server_program("pg_dump");
        command.args(["-U", "postgres", "-h"]).arg(self.dir.path()).arg(database);
        String::from_utf8(run(&mut command).stdout).unwrap()
    }

    /// Runs a script for psql.
    pub fn run_script(&self, database: &str, script: &str) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), script).unwrap();
        let output = self.psql(database).args(["-v", "ON_ERROR_STOP=1", "-f"]).arg(file.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// psql of the PostgreSQL under test, on `database`, as the superuser.
    pub fn psql(&self, database: &str) -> Command {
        let mut command = Command::new(Path::new(&pg_config("--bindir")).join("psql"));
        command.args(["-X", "-q", "-U", "postgres", "-d", database, "-h"]).arg(self.dir.path());
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.data().join("postmaster.pid").exists() {
            let mut command = server_program("pg_ctl");
            let _ = command.arg("-D").arg(self.data()).args(["-s", "-w", "-m", "immediate", "stop"]).output();
        }
        if std::thread::panicking() {
            eprintln!("log of the server:\n{}", self.log());
        }
    }
}

/// The first column of the first row, as text. NULL is `None`.
pub fn value(client: &mut Client, sql: &str) -> Option<String> {
    let messages = client.simple_query(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    messages.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    })
}

/// The example of scale-out.md that makes the table of tokens a partitioned one, a script for psql.
pub fn partitioning() -> String {
    scale_out("PARTITION BY")
}

/// The example of scale-out.md that has these words, a script for psql, with the functions where [`Cluster::with_extension`] has them.
pub fn scale_out(words: &str) -> String {
    let page = fs::read_to_string(source_path("docs/scale-out.md")).unwrap();
    let mut blocks = page.split("\n```").filter(|block| block.starts_with("sql"));
    let block = blocks.find(|block| block.contains(words)).unwrap();
    block.split_once('\n').unwrap().1.replace("auth.", "public.")
}

/// The first column of the first row, as text that is there.
pub fn text(client: &mut Client, sql: &str) -> String {
    value(client, sql).unwrap_or_else(|| panic!("{sql}: no value"))
}

/// The SQLSTATE that `sql` fails with, or `ok`.
pub fn sqlstate(client: &mut Client, sql: &str) -> String {
    match client.simple_query(sql) {
        Ok(_) => "ok".to_owned(),
        Err(error) => error.code().map_or_else(|| format!("{error:?}"), |code| code.code().to_owned()),
    }
}

/// Has one server's clock, and no other's, set ahead or back.
pub struct Clock {
    file: PathBuf,
}

impl Clock {
    /// Starts a stopped cluster with a clock that can be set.
    pub fn start(cluster: &Cluster) -> Self {
        let (file, library) = (cluster.socket().join("clock"), cluster.socket().join("clock.so"));
        let source = source_path("tests/common/clock.c");
        run(Command::new("cc").args(["-shared", "-fPIC", "-O2", "-o"]).args([&library, &source]));
        fs::write(&file, 0_i64.to_ne_bytes()).unwrap();
        cluster.start_in(&[("LD_PRELOAD", library.to_str().unwrap()), ("TEMPTOKEN_CLOCK", file.to_str().unwrap())]);
        Self { file }
    }

    /// Sets it so many seconds ahead of the machine's.
    pub fn set(&self, seconds: i64) {
        // The same file throughout, since every process of the server has it mapped.
        let file = fs::OpenOptions::new().write(true).open(&self.file).unwrap();
        file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }
}

/// Sends a process of the server a signal.
pub fn signal(pid: &str, signal: &str) {
    assert!(try_signal(pid, signal), "{pid} is there");
}

/// As [`signal`]; whether the process was there.
pub fn try_signal(pid: &str, signal: &str) -> bool {
    // The shell has a kill of its own; not every system has the program.
    Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).output().unwrap().status.success()
}

/// Says something also where the output of a test is not shown.
fn say(what: &str) {
    use std::io::Write as _;
    std::io::stderr().write_all(format!("{what}\n").as_bytes()).unwrap();
}

/// Says that the test that calls this is not run, or only in part, and why. `make test` repeats it at the end.
pub fn skipped(why: &str) {
    use std::io::Write as _;
    // libtest names the thread of a test after it.
    let line = format!("{}: {why}\n", std::thread::current().name().unwrap_or("a test"));
    say(&format!("SKIPPED {line}"));
    let list = fs::OpenOptions::new().create(true).append(true).open(temporary_path("skipped"));
    list.unwrap().write_all(line.as_bytes()).unwrap();
}

/// A file or directory that may stay from one run to the next.
fn temporary_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// Copies a directory with all that is in it, owners included.
fn copy_all(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").args([from, to]));
}

/// Asks again until the answer is yes; fails the test after [`PATIENCE`].
pub fn wait_until(what: &str, mut ask: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !ask() {
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Fails the test unless the answer stays yes for this long. Only for what must not happen: for the rest there is
/// [`wait_until`].
pub fn stays_for(time: Duration, what: &str, mut ask: impl FnMut() -> bool) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        assert!(ask(), "no more after {:?}: {what}", begun.elapsed());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// As [`wait_until`], for something to be had.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let mut found = None;
    wait_until(what, || {
        found = ask();
        found.is_some()
    });
    found.expect("it was there")
}

/// The processes that sweep a database each, and leave.
pub const WORKERS: &str = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'temptoken sweep worker'";

/// Registers the scope of the standing set-up: `files`, with GET /files/{id} for an hour.
pub const REGISTER: &str = "SELECT temptoken_register_scope('files', ARRAY['GET /files/{id}'], '1 hour', '{id}')";

/// The process that starts the workers.
pub const LAUNCHER: &str = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'temptoken sweep launcher'";

/// Mints tokens of the scope `files` that live for `ttl`, one for each number up to `count`.
pub fn mint(client: &mut Client, count: u32, ttl: &str) {
    let ids = format!("ARRAY(SELECT i::text FROM generate_series(1, {count}) AS i)");
    text(client, &format!("SELECT count(*) FROM temptoken_mint_many('files', {ids}, '{ttl}')"));
}

/// Whether the database has this many tokens.
pub fn has_tokens(client: &mut Client, count: u32) -> bool {
    text(client, "SELECT count(*) FROM temptoken.temp_tokens") == count.to_string()
}

/// A trigger that makes every deletion of a row take this long.
pub fn slow_down(client: &mut Client, seconds: f64) {
    client
        .batch_execute(&format!(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN PERFORM pg_sleep({seconds}); RETURN OLD; END $$;
             CREATE TRIGGER slow BEFORE DELETE ON temptoken.temp_tokens FOR EACH ROW EXECUTE FUNCTION slow()"
        ))
        .unwrap();
}

/// Waits until a worker is in the middle of a batch that such a trigger slows down; its pid.
pub fn busy_worker(client: &mut Client) -> String {
    let busy =
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'temptoken sweep worker' AND wait_event = 'PgSleep'";
    wait_for("the worker is busy", || value(client, busy))
}
