//! Sweeping through pg_cron, in its own database and from another one.

use crate::common::{self, Clock, Cluster, REGISTER, has_tokens, mint, pg_config, sqlstate, text, value, wait_until};
use postgres::Client;
use std::path::Path;

const SCHEDULE: &str = "SELECT temptoken_schedule_sweep('* * * * *')";
const UNSCHEDULE: &str = "SELECT temptoken_unschedule_sweep()";

/// Whether pg_cron is there for the PostgreSQL under test. `make test` installs it for the distribution's.
fn has_pg_cron() -> bool {
    let there = Path::new(&pg_config("--sharedir")).join("extension/pg_cron.control").exists();
    if !there {
        common::skipped("pg_cron is not tested: this PostgreSQL comes without it");
    }
    there
}

/// What the status says of the schedule.
fn scheduled(client: &mut Client) -> Option<String> {
    value(client, "SELECT cron_schedule FROM temptoken_sweep_status()")
}

/// The statement in the HINT of the error that `call` ends with.
fn hinted(client: &mut Client, call: &str) -> String {
    let error = client.simple_query(call).unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!(error.code().code(), "55000");
    assert_eq!(error.message(), "temptoken: pg_cron is not in this database");
    error.hint().unwrap().strip_prefix("In that database run: ").unwrap().to_owned()
}

/// Both jobs run: that of pg_cron's database, and that of another, scheduled by the statement in the HINT. Names have quotes
/// in them.
#[test]
fn pg_cron_sweeps_its_own_database_and_others() {
    if !has_pg_cron() {
        return;
    }
    let settings = [
        "shared_preload_libraries = 'pg_cron'",
        "cron.database_name = 'cron''s \"db\"'",
        "cron.use_background_workers = on",
    ];
    let cluster = Cluster::start(&settings);
    cluster.stop("fast");
    let clock = Clock::start(&cluster);
    let mut postgres = cluster.connect("postgres");
    for database in ["cron's \"\"db\"\"", r"it's \other"] {
        postgres.batch_execute(&format!("CREATE DATABASE \"{database}\"")).unwrap();
    }
    let mut cron = cluster.connect("cron's \"db\"");
    cron.batch_execute("CREATE EXTENSION pg_cron; CREATE EXTENSION temptoken").unwrap();
    let mut other = cluster.connect(r"it's \other");
    other.batch_execute("CREATE SCHEMA \"Odd schema\"; CREATE EXTENSION temptoken SCHEMA \"Odd schema\"").unwrap();
    other.batch_execute("SET search_path = \"Odd schema\"").unwrap();
    for client in [&mut cron, &mut other] {
        text(client, REGISTER);
        mint(client, 5, "1 millisecond");
        // Whoever may create in the extension's schema cannot have a function of theirs called instead.
        client
            .batch_execute(
                "CREATE FUNCTION temptoken_delete_expired() RETURNS bigint LANGUAGE plpgsql AS
                 $$ BEGIN RAISE 'this is not ours'; END $$",
            )
            .unwrap();
    }
    assert_eq!(text(&mut cron, UNSCHEDULE), "f");
    text(&mut cron, "SELECT temptoken_schedule_sweep()");
    assert_eq!(scheduled(&mut cron).unwrap(), "*/5 * * * *");
    cron.batch_execute("SET quote_all_identifiers = on").unwrap();
    assert_eq!(scheduled(&mut cron).unwrap(), "*/5 * * * *");
    text(&mut cron, SCHEDULE);
    cron.batch_execute("RESET quote_all_identifiers").unwrap();
    assert_eq!(scheduled(&mut cron).unwrap(), "* * * * *");
    assert_ne!(sqlstate(&mut cron, "SELECT temptoken_schedule_sweep('whenever')"), "ok");
    assert_eq!(sqlstate(&mut cron, "SELECT temptoken_schedule_sweep(NULL)"), "22004");
    // A job of a role's own: whatever has the names of database, schema and function later is called with its rights.
    other.batch_execute("CREATE ROLE \"sweeper's\" LOGIN; SELECT temptoken_grant('sweeper''s', 'manage')").unwrap();
    other.batch_execute("SET ROLE \"sweeper's\"").unwrap();
    let hint = hinted(&mut other, SCHEDULE);
    text(&mut cron, &hint);
    let username = "SELECT username FROM cron.job WHERE database = 'it''s \\other'";
    assert_eq!(text(&mut cron, username), "sweeper's", "{hint}");
    assert_eq!(text(&mut cron, "SELECT count(*) FROM cron.job"), "2", "{hint}");
    other.batch_execute("RESET ROLE").unwrap();
    assert_eq!(scheduled(&mut other), None);
    // The next minute begins.
    clock.set(60);
    wait_until("pg_cron has swept", || has_tokens(&mut cron, 0) && has_tokens(&mut other, 0));
    let hint = hinted(&mut other, UNSCHEDULE);
    assert_eq!(text(&mut cron, &hint), "t");
    assert_eq!(text(&mut cron, UNSCHEDULE), "t");
    assert_eq!(text(&mut cron, "SELECT count(*) FROM cron.job"), "0", "{hint}");
    assert_eq!(text(&mut cron, UNSCHEDULE), "f");
    // Scheduling is part of the transaction.
    cron.batch_execute(&format!("BEGIN; {SCHEDULE}; ROLLBACK")).unwrap();
    assert_eq!(scheduled(&mut cron), None);
}

/// A comment in a job's command is enough to look like a sweep; what the status counts is one.
#[test]
fn only_a_job_that_sweeps_this_database_for_certain_counts() {
    if !has_pg_cron() {
        return;
    }
    let cluster = Cluster::start(&["shared_preload_libraries = 'pg_cron'"]);
    let mut client = cluster.connect("postgres");
    client
        .batch_execute(
            "CREATE EXTENSION pg_cron; CREATE EXTENSION temptoken; CREATE ROLE manager LOGIN; CREATE ROLE owner LOGIN;
             GRANT USAGE ON SCHEMA cron TO manager, owner;
             GRANT USAGE, CREATE ON SCHEMA temptoken TO owner; GRANT EXECUTE ON FUNCTION temptoken.scope_is_valid TO owner;
             ALTER TABLE temptoken.temp_tokens OWNER TO owner",
        )
        .unwrap();
    client.batch_execute("CREATE DATABASE other").unwrap();
    value(&mut client, "SELECT temptoken_grant('manager', 'manage')");
    value(&mut client, "SELECT temptoken_grant('owner', 'manage')");
    let ours = "SELECT public.temptoken_delete_expired(pg_catalog.clock_timestamp())";
    let mut manager = cluster.connect_as("manager", "postgres");
    text(&mut manager, SCHEDULE);
    assert_eq!(scheduled(&mut manager), None, "another role than the owner");
    assert_eq!(text(&mut manager, UNSCHEDULE), "t");
    for command in [
        "SELECT 1 -- temptoken_delete_expired()",
        "SELECT public.temptoken_delete_expired()",
        &format!("{ours} WHERE false"),
        &format!(" {ours}"),
    ] {
        text(&mut client, &format!("SELECT cron.schedule('job', '* * * * *', '{command}')"));
        assert_eq!(scheduled(&mut client), None, "{command}");
    }
    text(&mut client, "SELECT cron.unschedule('job')");
    text(&mut client, &format!("SELECT cron.schedule_in_database('job', '1 * * * *', '{ours}', 'other')"));
    assert_eq!(scheduled(&mut client), None, "another database");
    text(
        &mut client,
        &format!("SELECT cron.schedule_in_database('off', '2 * * * *', '{ours}', 'postgres', active => false)"),
    );
    assert_eq!(scheduled(&mut client), None, "not active");
    let mut owner = cluster.connect_as("owner", "postgres");
    text(&mut owner, "SELECT temptoken_schedule_sweep('3 * * * *')");
    assert_eq!(scheduled(&mut manager).unwrap(), "3 * * * *", "any role that may ask sees the owner's");
    assert_eq!(text(&mut owner, UNSCHEDULE), "t");
    text(&mut client, "SELECT temptoken_schedule_sweep('4 * * * *')");
    assert_eq!(scheduled(&mut manager).unwrap(), "4 * * * *", "a superuser's");
    // Whatever the caller has set.
    manager.batch_execute("SET row_security = off; SET search_path = pg_temp").unwrap();
    assert_eq!(value(&mut manager, "SELECT cron_schedule FROM public.temptoken_sweep_status()").unwrap(), "4 * * * *");
    // A lock on the jobs is waited for, for a second.
    let mut holder = cluster.connect("postgres");
    holder.batch_execute("BEGIN; LOCK TABLE cron.job").unwrap();
    assert_eq!(scheduled(&mut client), None);
    holder.batch_execute("ROLLBACK").unwrap();
    assert_eq!(scheduled(&mut client).unwrap(), "4 * * * *");
    // An extension of that name that an ordinary role has made is not pg_cron.
    let owned_by =
        |role: &str| format!("UPDATE pg_extension SET extowner = '{role}'::regrole WHERE extname = 'pg_cron'");
    client.batch_execute(&owned_by("owner")).unwrap();
    assert_eq!(scheduled(&mut client), None);
    for call in [SCHEDULE, UNSCHEDULE] {
        hinted(&mut client, call);
    }
    let superuser = text(&mut client, "SELECT current_user");
    client.batch_execute(&owned_by(&superuser)).unwrap();
    assert_eq!(scheduled(&mut client).unwrap(), "4 * * * *");
    // Nor is the table, while it belongs to one.
    client.batch_execute("ALTER TABLE cron.job OWNER TO owner").unwrap();
    assert_eq!(scheduled(&mut client), None);
    client.batch_execute(&format!("ALTER TABLE cron.job OWNER TO {superuser}")).unwrap();
    assert_eq!(scheduled(&mut client).unwrap(), "4 * * * *");
    // Nor does a table count that is not pg_cron's, though pg_cron is there.
    client
        .batch_execute(
            "ALTER SCHEMA cron RENAME TO moved; CREATE SCHEMA cron; CREATE TABLE cron.job AS TABLE moved.job",
        )
        .unwrap();
    assert_eq!(scheduled(&mut client), None);
}

/// A table that only has the name of pg_cron's is not read, without pg_cron and with it.
#[test]
fn a_schema_that_only_looks_like_pg_cron_is_not_asked() {
    let cluster = Cluster::start(&[]);
    let mut client = cluster.connect("postgres");
    client
        .batch_execute(
            "CREATE EXTENSION temptoken; CREATE TABLE called (by name);
             CREATE SCHEMA cron;
             CREATE FUNCTION cron.schedule(text, text, text) RETURNS bigint LANGUAGE sql AS
             'INSERT INTO public.called VALUES (current_user); SELECT 1::bigint';
             CREATE FUNCTION cron.jobs() RETURNS text LANGUAGE sql AS
             'INSERT INTO public.called VALUES (current_user); SELECT ''x''';
             CREATE VIEW cron.job AS SELECT 1::bigint AS jobid, cron.jobs() AS schedule, current_database() AS database, true AS active,
                 current_user AS username, 'SELECT public.temptoken_delete_expired(pg_catalog.clock_timestamp())' AS command",
        )
        .unwrap();
    for call in [SCHEDULE, UNSCHEDULE] {
        hinted(&mut client, call);
    }
    assert_eq!(scheduled(&mut client), None);
    assert_eq!(text(&mut client, "SELECT count(*) FROM called"), "0");
}
