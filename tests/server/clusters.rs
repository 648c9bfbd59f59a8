//! What only shows on real clusters, driven from outside by committing clients: encodings, crashes, standbys, what is
//! written to disk, a driver's view of errors.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::common::{self, Cluster, LAUNCHER, REGISTER, has_tokens, mint, sqlstate, text, value, wait_until};
use postgres::Client;

#[test]
fn a_database_of_many_scopes_takes_no_counts_from_others() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h"]);
    let mut client = cluster.connect("postgres");
    // These two ids lead to the same part of the memory first.
    for database in ["filled OID = 20000", "neighbour OID = 20064"] {
        client.batch_execute(&format!("CREATE DATABASE {database}")).unwrap();
    }
    let [mut filled, mut neighbour] = ["filled", "neighbour"].map(|database| cluster.connect(database));
    for other in [&mut filled, &mut neighbour] {
        other.batch_execute("CREATE EXTENSION temptoken").unwrap();
    }
    let all = "DO $$ BEGIN
        FOR i IN 1 .. 4000 LOOP
            PERFORM temptoken_register_scope('s' || i, ARRAY['GET /x'], '1 hour');
            PERFORM temptoken_mint('s' || i, 'r', '1 minute');
            PERFORM temptoken_unregister_scope('s' || i);
        END LOOP;
        RAISE SQLSTATE 'AB123';
    END $$";
    assert_eq!(sqlstate(&mut filled, all), "AB123");
    let counted = |client: &mut Client, count, scope| {
        let counted = format!(
            "SELECT coalesce((outcomes -> '{count}')::text, 'not counted') FROM temptoken_stats()
             WHERE scope IS NOT DISTINCT FROM {scope}"
        );
        text(client, &counted)
    };
    for (client, minted) in [(&mut filled, "not counted"), (&mut neighbour, "1"), (&mut client, "1")] {
        text(client, REGISTER);
        text(client, "SELECT temptoken_mint('files', '42', '1 hour')");
        text(client, "SELECT status FROM temptoken_try_validate('a guess', 'GET', '/')");
        assert_eq!(counted(client, "minted", "'files'"), minted);
        assert_eq!(counted(client, "token_not_found", "NULL"), "1");
    }
    drop(neighbour);
    client.batch_execute("DROP DATABASE neighbour").unwrap();
    cluster.configure(&["temptoken.sweep_interval = 1s"]);
    cluster.reload();
    let now = text(&mut client, "SELECT clock_timestamp()");
    let round = format!(
        "SELECT coalesce(last_start > '{now}'::timestamptz + interval '1 second', false) FROM temptoken_sweep_status()"
    );
    wait_until("a round has begun after that", || text(&mut client, &round) == "t");
    client.batch_execute("CREATE DATABASE neighbour OID = 20064").unwrap();
    let mut neighbour = cluster.connect("neighbour");
    neighbour.batch_execute("CREATE EXTENSION temptoken").unwrap();
    assert_eq!(counted(&mut neighbour, "token_not_found", "NULL"), "0");
}

#[test]
fn validations_mints_and_spent_uses_are_counted_by_scope() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    text(&mut client, "SELECT temptoken_register_scope('once', ARRAY['GET /once'], '1 hour', max_uses => 1)");
    let token = text(&mut client, "SELECT temptoken_mint('files', '42', '1 hour')");
    let once = text(&mut client, "SELECT temptoken_mint('once', 'x', '1 hour')");
    text(&mut client, "SELECT count(*) FROM temptoken_mint_many('files', '{1,2,3}', '1 hour')");
    sqlstate(&mut client, "SELECT temptoken_mint('files', '42', '2 hours')");
    // Minted and spent, and taken back: counted all the same.
    let rolled_back =
        "BEGIN; SELECT temptoken_validate(temptoken_mint('once', 'y', '1 hour'), 'GET', '/once'); ROLLBACK";
    client.batch_execute(rolled_back).unwrap();
    let calls = [(&*token, "/files/42", 3), (&*token, "/files/43", 2), (&*once, "/once", 2), ("nonsense", "/", 4)];
    for (token, path, times) in calls {
        for _ in 0..times {
            // Each in a session of its own: what is counted is counted for all.
            let mut other = cluster.connect("postgres");
            text(&mut other, &format!("SELECT (temptoken_try_validate('{token}', 'GET', '{path}')).status"));
            text(&mut other, &format!("SELECT (temptoken_peek('{token}', 'GET', '{path}')).status"));
            sqlstate(&mut other, &format!("SELECT temptoken_validate('{token}', 'PUT', '{path}')"));
        }
    }
    let mut outcomes = |scope: &str, outcome: &str| {
        let sql =
            format!("SELECT outcomes -> '{outcome}' FROM temptoken_stats() WHERE scope IS NOT DISTINCT FROM {scope}");
        text(&mut client, &sql)
    };
    let counted = [
        ("'files'", "ok", "3"),
        ("'files'", "route_not_allowed", "7"),
        ("'files'", "token_used_up", "0"),
        ("'files'", "minted", "4"),
        ("'files'", "spent", "0"),
        ("'once'", "minted", "2"),
        ("'once'", "spent", "2"),
        ("'once'", "ok", "2"),
        ("'once'", "token_used_up", "1"),
        ("'once'", "route_not_allowed", "2"),
        ("NULL", "token_not_found", "8"),
        ("NULL", "ok", "0"),
        ("NULL", "minted", "0"),
    ];
    for (scope, outcome, count) in counted {
        assert_eq!(outcomes(scope, outcome), count, "{scope} {outcome}");
    }
}

#[test]
fn validation_is_right_without_preloading_and_expired_tokens_stay_until_deleted() {
    let cluster = Cluster::start(&[]);
    let mut client = cluster.connect("postgres");
    client.batch_execute("CREATE EXTENSION temptoken").unwrap();
    text(&mut client, REGISTER);
    let token = text(&mut client, "SELECT temptoken_mint('files', '42', '2 seconds')");
    let status = format!("SELECT (temptoken_try_validate('{token}', 'GET', '/files/42')).status");
    assert_eq!(text(&mut client, &status), "ok");
    wait_until("it has expired", || text(&mut client, &status) == "token_expired");
    assert!(has_tokens(&mut client, 1));
    assert_eq!(text(&mut client, "SELECT temptoken_delete_expired()"), "1");
    assert_eq!(text(&mut client, &status), "token_not_found");
    assert_eq!(value(&mut client, LAUNCHER), None);
}

/// Neither SET nor ALTER ROLE nor the connection's options give an ordinary user a say in a setting, whether the library is
/// loaded before or after.
#[test]
fn an_ordinary_user_cannot_change_a_setting() {
    for preload in ["", "temptoken"] {
        let cluster = Cluster::start(&[&format!("shared_preload_libraries = '{preload}'")]);
        let mut client = cluster.connect("postgres");
        client.batch_execute("CREATE EXTENSION temptoken; CREATE ROLE ordinary LOGIN").unwrap();
        text(&mut client, REGISTER);
        value(&mut client, "SELECT temptoken_grant('ordinary', 'issue')");
        let mint = "SELECT temptoken_mint('files', '42', '1 hour')";
        let mut ordinary = cluster.connect_as("ordinary", "postgres");
        // Where the name is not known yet, it may be set, and is set back when the library is loaded.
        let _ = ordinary.batch_execute("SET temptoken.token_prefix = 'evil'");
        let _ = ordinary.batch_execute("ALTER ROLE ordinary SET temptoken.token_prefix = 'evil'");
        assert!(text(&mut ordinary, mint).starts_with("tt_"));
        assert_eq!(sqlstate(&mut ordinary, "SET temptoken.token_prefix = 'evil'"), "42501");
        assert_eq!(sqlstate(&mut ordinary, "ALTER ROLE ordinary SET temptoken.token_prefix = 'evil'"), "42501");
        let mut again = cluster.connect_as("ordinary", "postgres");
        assert!(text(&mut again, mint).starts_with("tt_"));
        if let Some(mut optioned) = cluster.try_connect_with("ordinary", "-c temptoken.token_prefix=evil") {
            assert!(text(&mut optioned, mint).starts_with("tt_"));
        }
    }
}

/// Every refusal and error of the table, as a driver's error object carries it.
#[test]
fn a_driver_sees_each_sqlstate() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    text(&mut client, "SELECT temptoken_register_scope('once', ARRAY['GET /once'], '1 hour', max_uses => 1)");
    text(&mut client, "SELECT temptoken_register_scope('gone', ARRAY['GET /gone'], '1 hour')");
    let token = text(&mut client, "SELECT temptoken_mint('files', '42', '1 hour')");
    let expired = text(&mut client, "SELECT temptoken_mint('files', '43', '1 millisecond')");
    let used_up = text(&mut client, "SELECT temptoken_mint('once', 'x', '1 hour')");
    let gone = text(&mut client, "SELECT temptoken_mint('gone', 'x', '1 hour')");
    text(&mut client, &format!("SELECT temptoken_validate('{used_up}', 'GET', '/once')"));
    text(&mut client, "SELECT temptoken_unregister_scope('gone')");
    let validate = |token: &str, path: &str| format!("SELECT * FROM temptoken_validate('{token}', 'GET', '{path}')");
    let cases = [
        ("SELECT * FROM temptoken_validate(null, 'GET', '/')".to_owned(), "TT001"),
        (validate("nonsense", "/"), "TT001"),
        (validate(&expired, "/files/43"), "TT002"),
        (validate(&gone, "/gone"), "TT003"),
        ("SELECT temptoken_mint('gone', 'x', '1 hour')".to_owned(), "TT003"),
        (validate(&token, "/files/43"), "TT004"),
        ("SELECT temptoken_mint('files', '42', '2 hours')".to_owned(), "TT005"),
        (validate(&used_up, "/once"), "TT006"),
        (REGISTER.to_owned(), "TT010"),
        ("SELECT temptoken_register_scope('bad', ARRAY['GET'], '1 hour')".to_owned(), "TT011"),
        ("SELECT temptoken_mint('files', '..', '1 hour')".to_owned(), "TT012"),
        (validate(&token, "/files/42"), "ok"),
    ];
    for (sql, expected) in cases {
        assert_eq!(sqlstate(&mut client, &sql), expected, "{expected}");
        // And by the extended protocol, where the message must not carry what was presented either.
        match client.query(&sql, &[]) {
            Ok(_) => assert_eq!(expected, "ok"),
            Err(error) => {
                let error = error.as_db_error().unwrap();
                assert_eq!(error.code().code(), expected);
                assert!(error.message().starts_with("temptoken: "), "{error:?}");
                assert!(error.hint().is_some(), "{error:?}");
                let said = format!("{error:?}");
                for token in [&token, &expired, &used_up, &gone] {
                    assert!(!said.contains(&token[35..]), "a secret in {said}");
                }
            }
        }
    }
}

/// No secret is in what the server stores or logs on its own.
#[test]
fn no_secret_is_written_anywhere() {
    let cluster = Cluster::with_extension(&["log_min_messages = debug1"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    let mint = client.prepare("SELECT temptoken_mint('files', '42', '1 hour', '{\"mark\": \"findable\"}')").unwrap();
    let token: String = client.query_one(&mint, &[]).unwrap().get(0);
    let validate = client.prepare("SELECT (temptoken_validate($1, 'GET', $2)).scope").unwrap();
    for path in ["/files/42", "/files/43"] {
        let _ = client.query(&validate, &[&token, &path]);
    }
    client.batch_execute("CHECKPOINT").unwrap();
    assert!(cluster.files_contain(b"findable"), "the search finds what is there");
    assert!(!cluster.files_contain(&token.as_bytes()[35..]));
    let secret: Vec<u8> = (35..99).step_by(2).map(|at| u8::from_str_radix(&token[at..at + 2], 16).unwrap()).collect();
    assert!(!cluster.files_contain(&secret));
    if !common::has_program("pg_dump") {
        return common::skipped("in part: this PostgreSQL comes without pg_dump");
    }
    let dump = cluster.dump("postgres");
    assert!(dump.contains("GET /files/{id}"), "a dump carries scopes");
    assert!(!dump.contains("findable"), "and no tokens");
}

/// What the README says of statements that the server logs: a bound token is in them, unless its remedy is set.
#[test]
fn the_server_logs_bound_tokens_unless_it_is_told_not_to() {
    for (remedy, logged) in [("#", true), ("", false)] {
        let cluster = Cluster::with_extension(&[
            "log_min_duration_statement = 0",
            "log_statement = all",
            &format!("{remedy} log_parameter_max_length = 0"),
            &format!("{remedy} log_parameter_max_length_on_error = 0"),
        ]);
        let mut client = cluster.connect("postgres");
        text(&mut client, REGISTER);
        let mint = client.prepare("SELECT temptoken_mint('files', '42', '1 hour')").unwrap();
        let token: String = client.query_one(&mint, &[]).unwrap().get(0);
        let validate = client.prepare("SELECT (temptoken_validate($1, 'GET', $2)).scope").unwrap();
        client.query(&validate, &[&token, &"/files/42"]).unwrap();
        client.query(&validate, &[&token, &"/files/43"]).unwrap_err();
        assert!(cluster.log().contains("temptoken_validate($1"), "statements are logged");
        assert_eq!(cluster.log().contains(&token[35..]), logged, "{}", cluster.log());
    }
}

/// A set of tokens that is larger than work_mem is not spilled to a temporary file.
#[test]
fn no_token_is_spilled_to_disk() {
    let cluster = Cluster::with_extension(&["work_mem = '64kB'"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    let ids = "ARRAY(SELECT 'findable' || i FROM generate_series(1, 20000) AS i)";
    let declare = format!("DECLARE c CURSOR FOR SELECT token FROM temptoken_mint_many('files', {ids}, '1 hour')");
    client.batch_execute("BEGIN").unwrap();
    client.batch_execute(&declare).unwrap();
    let token = text(&mut client, "FETCH 1 FROM c");
    client.batch_execute("CHECKPOINT").unwrap();
    assert!(cluster.files_contain(b"findable20000"), "the search finds what is there");
    assert!(!cluster.files_contain(&token.as_bytes()[35..]));
}

/// What was taken from a token or a role stays taken, whatever the caller's session says of synchronous_commit.
#[test]
fn no_crash_undoes_a_deletion_a_spending_a_change_of_scope_or_a_revocation() {
    let cluster =
        Cluster::with_extension(&["wal_writer_delay = 10s", "autovacuum = off", "temptoken.sweep_interval = 1h"]);
    let mut client = cluster.connect("postgres");
    let scope = |name: &str, uses: &str| {
        format!("SELECT temptoken_register_scope('{name}', ARRAY['GET /x'], '1 hour', max_uses => {uses})")
    };
    for (name, uses) in
        [("s", "NULL"), ("once", "1"), ("gone", "NULL"), ("narrowed", "NULL"), ("all", "NULL"), ("late", "NULL")]
    {
        text(&mut client, &scope(name, uses));
    }
    let mut mint =
        |scope: &str, id: &str| text(&mut client, &format!("SELECT temptoken_mint('{scope}', '{id}', '1 hour')"));
    let scopes = ["s", "s", "s", "once", "gone", "narrowed", "all", "late"];
    let tokens: Vec<String> = scopes.iter().zip(1..).map(|(scope, id)| mint(scope, &i32::to_string(&id))).collect();
    let status = |client: &mut Client, token: &str| {
        text(client, &format!("SELECT (temptoken_peek('{token}', 'GET', '/x')).status"))
    };
    client.batch_execute("CHECKPOINT; SET synchronous_commit = off").unwrap();
    let mut taken = Vec::new();
    for sql in [
        format!("SELECT temptoken_delete('{}')", tokens[0]),
        "SELECT temptoken_delete_by_id(id) FROM temptoken.temp_tokens WHERE resource_id = '2'".to_owned(),
        "SELECT temptoken_delete_by_resource_id('s', '3')".to_owned(),
        format!("SELECT (temptoken_validate('{}', 'GET', '/x')).scope", tokens[3]),
        "SELECT temptoken_unregister_scope('gone')".to_owned(),
        "SELECT temptoken_register_scope('narrowed', ARRAY['GET /y'], '1 hour', replace => true)".to_owned(),
        "SELECT temptoken_delete_by_scope('all')".to_owned(),
        "SELECT temptoken_delete_expired(clock_timestamp() + interval '3 hours')".to_owned(),
    ] {
        // Each alone: the commit of a later one would carry the WAL of those before.
        text(&mut client, &sql);
        cluster.crash();
        client = cluster.connect("postgres");
        client.batch_execute("SET synchronous_commit = off").unwrap();
        taken.push(status(&mut client, &tokens[taken.len()]));
    }
    let not_found = "token_not_found";
    let others = ["token_used_up", "scope_unknown", "route_not_allowed"];
    assert_eq!(taken, [&[not_found; 3][..], &others, &[not_found; 2]].concat());
    client.batch_execute("CREATE ROLE web; SELECT temptoken_grant('web', 'manage')").unwrap();
    client.batch_execute("CHECKPOINT").unwrap();
    client.batch_execute("SELECT temptoken_revoke_grant('web', 'manage')").unwrap();
    cluster.crash();
    let may = "SELECT has_table_privilege('web', 'temptoken.active_tokens', 'SELECT')";
    assert_eq!(text(&mut cluster.connect("postgres"), may), "f");
}

#[test]
fn any_encoding_and_any_bytes() {
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1s"]);
    let mut postgres = cluster.connect("postgres");
    // These check every byte of the install script.
    for encoding in ["EUC_CN", "EUC_JIS_2004", "EUC_JP", "EUC_KR", "EUC_TW", "KOI8R", "WIN1252"] {
        let database = encoding.to_lowercase();
        let create = format!("CREATE DATABASE {database} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0");
        postgres.batch_execute(&create).unwrap();
        cluster.connect(&database).batch_execute("CREATE EXTENSION temptoken").unwrap();
    }
    for encoding in ["SQL_ASCII", "LATIN1", "UTF8"] {
        let database = encoding.to_lowercase();
        postgres
            .batch_execute(&format!("CREATE DATABASE {database} ENCODING '{encoding}' TEMPLATE template0"))
            .unwrap();
        let mut client = cluster.connect(&database);
        client.batch_execute("CREATE EXTENSION temptoken").unwrap();
        text(&mut client, REGISTER);
        text(&mut client, "SELECT temptoken_register_scope('plain', ARRAY['GET /plain'], '1 hour')");
        let token = text(&mut client, "SELECT temptoken_mint('files', '42', '1 hour')");
        let bad = r"E'/files/42\xff'";
        let expect = |sql: String, client: &mut Client, answer: &str| {
            if encoding == "UTF8" {
                assert_eq!(sqlstate(client, &sql), "22021", "{encoding}: {sql}");
            } else {
                assert_eq!(text(client, &sql), answer, "{encoding}: {sql}");
            }
            // The session survives.
            assert_eq!(text(client, &format!("SELECT (temptoken_peek('{token}', 'GET', '/files/42')).status")), "ok");
        };
        for arguments in [format!("{bad}, 'GET', '/'"), format!("'{token}' || {bad}, 'GET', '/files/42'")] {
            let sql = format!("SELECT (temptoken_try_validate({arguments})).status");
            expect(sql, &mut client, "token_not_found");
        }
        for arguments in [format!("'{token}', {bad}, '/files/42'"), format!("'{token}', 'GET', {bad}")] {
            let sql = format!("SELECT (temptoken_try_validate({arguments})).status");
            expect(sql, &mut client, "route_not_allowed");
        }
        expect(format!("SELECT length(temptoken_mint('plain', {bad}, '1 hour'))"), &mut client, "99");
        for client_encoding in ["UTF8", "SQL_ASCII", encoding] {
            client.batch_execute(&format!("SET client_encoding = '{client_encoding}'")).unwrap();
            let ids = format!("ARRAY['x', {bad}]");
            expect(format!("SELECT count(*) FROM temptoken_mint_many('plain', {ids}, '1 hour')"), &mut client, "2");
        }
        client.batch_execute("RESET client_encoding").unwrap();
        expect(format!("SELECT temptoken_delete_by_resource_id('plain', {bad})"), &mut client, "4");
        expect(format!("SELECT temptoken_unregister_scope({bad})"), &mut client, "f");
        expect(format!("SELECT temptoken_lookup_scope({bad}) IS NULL"), &mut client, "t");
        for (call, state) in [
            (format!("temptoken_mint('files', {bad}, '1 hour')"), "TT012"),
            (format!("temptoken_mint({bad}, '42', '1 hour')"), "TT003"),
            (format!("temptoken_register_scope({bad}, ARRAY['GET /x'], '1 hour')"), "TT011"),
            (format!("temptoken_register_scope('x', ARRAY['GET ' || {bad}], '1 hour')"), "TT011"),
            (format!("temptoken_register_scope('x', ARRAY['GET /x'], '1 hour', {bad})"), "TT011"),
        ] {
            let state = if encoding == "UTF8" { "22021" } else { state };
            // An answer that quotes such bytes cannot be read by this driver in SQL_ASCII: PL/pgSQL looks at it.
            let caught = format!(
                "DO $do$ BEGIN PERFORM {call}; EXCEPTION WHEN SQLSTATE '{state}' THEN PERFORM set_config('t.s', 'caught', false); END $do$"
            );
            client.batch_execute("SET t.s = ''").unwrap();
            let outcome = sqlstate(&mut client, &caught);
            assert!(outcome == "22021" || text(&mut client, "SHOW t.s") == "caught", "{encoding}: {call}: {outcome}");
        }
        client
            .batch_execute(
                "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'caf%', chr(233); END $$;
                 CREATE TRIGGER fail BEFORE DELETE ON temptoken.temp_tokens FOR EACH ROW EXECUTE FUNCTION fail();
                 SELECT temptoken_mint('files', '42', '1 millisecond')",
            )
            .unwrap();
        let error = if encoding == "UTF8" { "café" } else { "caf?" };
        let shown = format!("SELECT (last_error = '{error}')::text FROM temptoken_sweep_status()");
        wait_until("the error is shown", || value(&mut client, &shown).as_deref() == Some("true"));
    }
}

/// A locale in which the capital of i is not I changes nothing.
#[test]
fn a_turkish_database_gives_the_same_answers() {
    let cluster = Cluster::with_extension(&[]);
    let create = "CREATE DATABASE turkish TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'tr-TR' ENCODING 'UTF8'";
    match &*sqlstate(&mut cluster.connect("postgres"), create) {
        "ok" => {}
        // Before PostgreSQL 15, or built without ICU.
        "42601" | "0A000" => return common::skipped("this PostgreSQL has no databases with ICU locales"),
        state => panic!("{state}"),
    }
    let mut client = cluster.connect("turkish");
    client.batch_execute("CREATE EXTENSION temptoken").unwrap();
    text(&mut client, "SELECT temptoken_register_scope('list', ARRAY['LIST /files/{id}'], '1 hour', '{id}')");
    assert_eq!(text(&mut client, "SELECT upper('i')"), "İ", "the database is Turkish");
    let token = text(&mut client, "SELECT temptoken_mint('list', 'i', '1 hour')");
    for (method, path, status) in [
        ("list", "/files/i", "ok"),
        ("LIST", "/files/i", "ok"),
        ("LİST", "/files/i", "route_not_allowed"),
        ("lıst", "/files/i", "route_not_allowed"),
        ("LIST", "/files/I", "route_not_allowed"),
        ("LIST", "/files/ı", "route_not_allowed"),
        ("LIST", "/files/İ", "route_not_allowed"),
        ("LIST", "/FILES/i", "route_not_allowed"),
    ] {
        let sql = format!("SELECT (temptoken_try_validate('{token}', '{method}', '{path}')).status");
        assert_eq!(text(&mut client, &sql), status, "{method} {path}");
    }
    assert_eq!(text(&mut client, "SELECT temptoken_delete_by_resource_id('LIST', 'i')"), "0");
    assert_eq!(text(&mut client, "SELECT temptoken_delete_by_resource_id('list', 'I')"), "0");
}

#[test]
fn a_restored_dump_has_the_scopes_and_not_the_tokens() {
    if !common::has_program("pg_dump") {
        return common::skipped("this PostgreSQL comes without pg_dump");
    }
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    text(&mut client, "SELECT temptoken_register_scope('limited', ARRAY['POST /x'], '1 day', max_uses => 2)");
    client.batch_execute("CREATE ROLE validator; SELECT temptoken_grant('validator', 'validate')").unwrap();
    let token = text(&mut client, "SELECT temptoken_mint('files', '42', '1 hour')");
    let described = "SELECT string_agg(s::text, ' ' ORDER BY name) FROM temptoken.scopes AS s";
    let before = text(&mut client, described);
    client.batch_execute("CREATE DATABASE plain").unwrap();
    client.batch_execute("CREATE DATABASE custom").unwrap();
    let dump = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(dump.path(), cluster.dump("postgres")).unwrap();
    let restored = cluster.psql("plain").args(["-v", "ON_ERROR_STOP=1", "-f"]).arg(dump.path()).output().unwrap();
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    cluster.dump_and_restore("postgres", "custom");
    for database in ["plain", "custom"] {
        let mut client = cluster.connect(database);
        assert_eq!(text(&mut client, described), before);
        let status = format!("SELECT (temptoken_try_validate('{token}', 'GET', '/files/42')).status");
        assert_eq!(text(&mut client, &status), "token_not_found");
        let granted = "SELECT has_function_privilege('validator', 'temptoken_validate(text, text, text)', 'EXECUTE')";
        assert_eq!(text(&mut client, granted), "t");
        let granted = "SELECT has_function_privilege('validator', 'temptoken_mint(text, text, interval, jsonb, integer, boolean)', 'EXECUTE')";
        assert_eq!(text(&mut client, granted), "f");
        assert_eq!(sqlstate(&mut client, "INSERT INTO temptoken.scopes VALUES ('x', '{GET}', '', '1 hour')"), "TT011");
    }
}

#[test]
fn tokens_survive_pg_upgrade() {
    if !common::has_program("pg_upgrade") {
        return common::skipped("this PostgreSQL comes without pg_upgrade");
    }
    let cluster = Cluster::with_extension(&["temptoken.sweep_interval = 1h"]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    let token = text(&mut client, "SELECT temptoken_mint('files', '42', '1 hour')");
    mint(&mut client, 2_000, "1 second");
    let expired = Instant::now() + Duration::from_secs(1);
    drop(client);
    cluster.stop("fast");
    // They expire while the cluster is down: pg_upgrade must not find a sweep at work.
    std::thread::sleep(expired.saturating_duration_since(Instant::now()));
    let upgraded = cluster.upgrade();
    let mut client = upgraded.connect("postgres");
    let status = format!("SELECT (temptoken_try_validate('{token}', 'GET', '/files/42')).status");
    assert_eq!(text(&mut client, &status), "ok");
    wait_until("the new cluster sweeps", || has_tokens(&mut client, 1));
}

/// After the steps of scale-out.md, where whoever makes tables grants everything on them, and tokens are there.
#[test]
fn partitions_have_tokens_and_no_default_privileges() {
    wait_until("no day ends meanwhile", || {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() % 86_400 < 86_400 - 60
    });
    let cluster = Cluster::with_extension(&[]);
    let mut client = cluster.connect("postgres");
    text(&mut client, REGISTER);
    let token = text(&mut client, "SELECT temptoken_mint('files', '42', '1 hour')");
    // The page registers it too.
    text(&mut client, "SELECT temptoken_unregister_scope('files')");
    client
        .batch_execute("CREATE ROLE app; ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO app; CREATE TABLE usual ()")
        .unwrap();
    client.batch_execute("CREATE ROLE manager; SELECT temptoken_grant('manager', 'manage')").unwrap();
    client
        .batch_execute(
            "ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO app; ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO app",
        )
        .unwrap();
    for words in ["PARTITION BY", "partitions.first_id", "CREATE ROLE partitioner"] {
        cluster.run_script("postgres", &common::scale_out(words));
    }
    let may_call = "SELECT string_agg(r.rolname, ' ') FROM pg_roles AS r
                    WHERE NOT r.rolsuper AND EXISTS (
                        SELECT FROM pg_proc AS p
                        WHERE p.pronamespace = 'partitions'::regnamespace AND has_function_privilege(r.oid, p.oid, 'EXECUTE'))";
    assert_eq!(text(&mut client, may_call), "partitioner");
    let granted = "SELECT string_agg(c.relname, ' ') FROM pg_class AS c
                   WHERE has_table_privilege('app', c.oid, 'SELECT, INSERT, TRIGGER, REFERENCES')
                       AND c.relnamespace IN ('public'::regnamespace, 'temptoken'::regnamespace)";
    assert_eq!(text(&mut client, granted), "usual");
    assert_eq!(text(&mut client, "SELECT has_table_privilege('manager', 'temptoken.active_tokens', 'SELECT')"), "t");
    // What is taken for the extension's own names nobody who could be dropped: dumps keep a grant, and can be restored.
    let initial = "SELECT count(*) FROM pg_init_privs AS i CROSS JOIN LATERAL aclexplode(i.initprivs) AS a
                   WHERE a.grantee IN (SELECT oid FROM pg_roles WHERE rolname IN ('app', 'manager'))";
    assert_eq!(text(&mut client, initial), "0");
    assert_eq!(text(&mut client, "SELECT count(*) FROM pg_partition_tree('temptoken.temp_tokens')"), "5");
    // The role of the job may do what the functions do, and no more. The partitions belong to the owner of the table.
    client.batch_execute("SET ROLE partitioner; SELECT partitions.add_days(ahead => 3)").unwrap();
    assert_eq!(sqlstate(&mut client, "SELECT count(*) FROM temptoken.temp_tokens"), "42501");
    client.batch_execute("RESET ROLE").unwrap();
    let owners = "SELECT count(DISTINCT c.relowner) FROM pg_partition_tree('temptoken.temp_tokens') AS p JOIN pg_class AS c ON c.oid = p.relid";
    assert_eq!(text(&mut client, owners), "1");
    assert_eq!(text(&mut client, granted), "usual");
    assert_eq!(text(&mut client, "SELECT count(*) FROM pg_partition_tree('temptoken.temp_tokens')"), "7");
    client.batch_execute("SET ROLE partitioner; SELECT partitions.drop_past()").unwrap();
    let mut job = cluster.connect("postgres");
    job.batch_execute("SET SESSION AUTHORIZATION partitioner; CREATE TEMP TABLE mine (id uuid)").unwrap();
    let code = "ALTER TABLE temptoken.temp_tokens ADD CONSTRAINT one CHECK (id IS NOT NULL)";
    client.batch_execute(&format!("RESET ROLE; {code}; SET ROLE partitioner")).unwrap();
    assert_eq!(sqlstate(&mut job, "SELECT partitions.add_days(ahead => 3)"), "42501");
    client
        .batch_execute("RESET ROLE; ALTER TABLE temptoken.temp_tokens DROP CONSTRAINT one; SET ROLE partitioner")
        .unwrap();
    for ahead in ["-1", "61", "NULL"] {
        assert_eq!(sqlstate(&mut client, &format!("SELECT partitions.add_days({ahead})")), "P0001", "{ahead}");
    }
    client.batch_execute("RESET ROLE").unwrap();
    assert_eq!(text(&mut client, "SELECT count(*) FROM pg_partition_tree('temptoken.temp_tokens')"), "6");
    let status = format!("SELECT (temptoken_try_validate('{token}', 'GET', '/files/42')).status");
    assert_eq!(text(&mut client, &status), "ok");
    assert_eq!(text(&mut client, "SELECT count(*) FROM temptoken.temp_tokens_rest"), "0");
    text(&mut client, "SELECT temptoken_mint('files', '43', '1 hour')");
    // A transaction that is left open holds it up for seconds, and others no longer.
    let mut idle = cluster.connect("postgres");
    idle.batch_execute(&format!("BEGIN; {status}")).unwrap();
    client.batch_execute("SET statement_timeout = '30s'").unwrap();
    assert_eq!(sqlstate(&mut client, "SELECT partitions.add_days(ahead => 4)"), "55P03");
    idle.batch_execute("COMMIT").unwrap();
    assert_eq!(sqlstate(&mut client, "SELECT partitions.add_days(ahead => 4)"), "ok");
    // Nor does it run the code of an ordinary role, or move what a subscriber could not follow.
    client
        .batch_execute(
            "CREATE SCHEMA manager AUTHORIZATION manager; CREATE TABLE manager.opened (id uuid);
             ALTER TABLE manager.opened OWNER TO manager",
        )
        .unwrap();
    for (unfit, fit, sqlstate_of) in [
        (
            "ALTER TABLE temptoken.temp_tokens OWNER TO manager",
            "ALTER TABLE temptoken.temp_tokens OWNER TO CURRENT_USER",
            "42501",
        ),
        (
            "ALTER TABLE temptoken.temp_tokens_rest OWNER TO manager",
            "ALTER TABLE temptoken.temp_tokens_rest OWNER TO CURRENT_USER",
            "42501",
        ),
        (
            "ALTER TABLE manager.opened ADD CONSTRAINT opens FOREIGN KEY (id) REFERENCES temptoken.temp_tokens",
            "ALTER TABLE manager.opened DROP CONSTRAINT opens",
            "42501",
        ),
        ("CREATE PUBLICATION everything FOR ALL TABLES", "DROP PUBLICATION everything", "P0001"),
        ("CREATE PUBLICATION one FOR TABLE temptoken.temp_tokens", "DROP PUBLICATION one", "P0001"),
        ("CREATE PUBLICATION all_of_it FOR TABLES IN SCHEMA temptoken", "DROP PUBLICATION all_of_it", "P0001"),
    ] {
        client.batch_execute(unfit).unwrap();
        for call in ["add_days(ahead => 5)", "drop_past()"] {
            assert_eq!(sqlstate(&mut client, &format!("SELECT partitions.{call}")), sqlstate_of, "{unfit}");
        }
        client.batch_execute(fit).unwrap();
    }
    assert_eq!(sqlstate(&mut client, "SELECT partitions.add_days(ahead => 5)"), "ok");
    if !common::has_program("pg_dump") {
        return common::skipped("in part: this PostgreSQL comes without pg_dump");
    }
    client.batch_execute("CREATE DATABASE restored").unwrap();
    cluster.dump_and_restore("postgres", "restored");
    let kind = "SELECT relkind FROM pg_class WHERE oid = 'temptoken.temp_tokens'::regclass";
    assert_eq!(text(&mut cluster.connect("restored"), kind), "r");
}

/// The steps wait for whoever uses the table, and keep what was done meanwhile, whatever isolation level is the default. Nor does
/// whoever reads the view meanwhile get in their way.
#[test]
fn what_is_deleted_while_the_steps_for_partitions_wait_stays_deleted() {
    let cluster = Cluster::with_extension(&["default_transaction_isolation = 'repeatable read'"]);
    let [mut client, mut other, mut reader] = [(), (), ()].map(|()| cluster.connect("postgres"));
    text(&mut client, REGISTER);
    let token = text(&mut client, "SELECT temptoken_mint('files', '42', '1 hour')");
    other.batch_execute("BEGIN; SELECT temptoken_mint('files', '43', '1 hour')").unwrap();
    std::thread::scope(|scope| {
        let steps = scope.spawn(|| cluster.run_script("postgres", &common::scale_out("PARTITION BY")));
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
        wait_until("the steps wait", || text(&mut client, waiting) != "0");
        let reads = scope.spawn(|| sqlstate(&mut reader, "SELECT count(*) FROM temptoken.active_tokens"));
        wait_until("the reader waits", || text(&mut client, waiting) == "2");
        other.batch_execute(&format!("SELECT temptoken_delete('{token}'); COMMIT")).unwrap();
        steps.join().unwrap();
        assert_eq!(reads.join().unwrap(), "ok");
    });
    assert_eq!(text(&mut client, "SELECT relkind FROM pg_class WHERE oid = 'temptoken.temp_tokens'::regclass"), "p");
    let status = format!("SELECT (temptoken_try_validate('{token}', 'GET', '/files/42')).status");
    assert_eq!(text(&mut client, &status), "token_not_found");
}
