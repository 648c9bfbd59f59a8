//! The documentation, checked: README.md and the other pages at the root, in docs/, beside the examples and in monitoring/.
//!
//! - Every ```sql block is run, block after block, in one psql session a page, on a server of its own. A block that a
//!   block without a language follows must print just that, an ERROR too. Any other must run without an error. What
//!   differs from run to run (tokens, ids, times) is not compared, nor are the widths of columns.
//! - What docs/reference.md says of functions, tables, settings and privileges is what the catalog says.
//!   `TEMPTOKEN_WRITE_DOCS=1 cargo test --test docs` writes those parts anew.
//! - Names of functions and settings, and links between pages, lead somewhere.
//! - Files of src/ import what docs/internals.md says that they may.

mod common;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use common::Cluster;
use postgres::Client;

const PRELOADED: &[&str] = &["shared_preload_libraries = 'temptoken'"];
const REFERENCE: &str = "docs/reference.md";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(page: impl AsRef<Path>) -> String {
    fs::read_to_string(root().join(page)).unwrap()
}

/// Every page, relative to the root.
fn pages() -> Vec<PathBuf> {
    let of = |dir: &str| fs::read_dir(root().join(dir)).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let is_page = |path: &PathBuf| path.extension().is_some_and(|it| it == "md");
    let dirs = [".", "docs", "docs/how-to", "examples", "examples/middleware", "monitoring"];
    let mut pages: Vec<_> = dirs.into_iter().flat_map(of).filter(is_page).collect();
    pages.sort();
    pages.into_iter().map(|path| path.strip_prefix(root()).unwrap().to_owned()).collect()
}

// ---------------------------------------------------------------------------------------------------------------------
// Examples
// ---------------------------------------------------------------------------------------------------------------------

struct Example {
    line: usize,
    sql: String,
    /// What the page says that it prints.
    shown: Option<String>,
}

/// The ```sql blocks of a page. A block without a language right below one is its output.
fn examples(markdown: &str) -> Vec<Example> {
    let mut found: Vec<Example> = Vec::new();
    let (mut lines, mut gap) = (markdown.lines().enumerate(), usize::MAX);
    while let Some((number, line)) = lines.next() {
        let Some(language) = line.strip_prefix("```") else {
            gap = if line.is_empty() { gap.saturating_add(1) } else { usize::MAX };
            continue;
        };
        let body: Vec<&str> = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
        let body = body.join("\n");
        match language {
            "sql" => found.push(Example { line: number + 1, sql: body, shown: None }),
            "" if gap <= 1 => found.last_mut().unwrap().shown = Some(body),
            _ => {}
        }
        gap = if language == "sql" { 0 } else { usize::MAX };
    }
    found
}

/// What psql prints for each of the examples: results, messages, errors with their SQLSTATE.
fn outputs(cluster: &Cluster, examples: &[Example]) -> Vec<String> {
    const MARK: &str = "@@ the next example";
    let mut script = String::from("\\set VERBOSITY verbose\n\\set SHOW_CONTEXT never\n");
    for example in examples {
        write!(script, "{}\n\\echo '{MARK}'\n", example.sql).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in"), dir.path().join("out"));
    fs::write(&input, script).unwrap();
    let out = File::create(&output).unwrap();
    // From standard input, so that no message begins with a file and a line.
    let mut psql = cluster.psql("postgres");
    psql.stdin(File::open(&input).unwrap()).stderr(Stdio::from(out.try_clone().unwrap())).stdout(Stdio::from(out));
    assert!(psql.status().unwrap().success());
    let printed = fs::read_to_string(&output).unwrap();
    let mut printed: Vec<String> = printed.split(&format!("{MARK}\n")).map(str::to_owned).collect();
    printed.pop();
    printed
}

/// Output as it is compared: without what differs from run to run, widths of columns, and what few readers need.
fn comparable(output: &str) -> Vec<String> {
    let is_compared = |line: &&str| {
        let is_count = line.starts_with('(') && (line.ends_with(" rows)") || *line == "(1 row)");
        !line.trim().is_empty() && !is_count && !line.starts_with("LOCATION:")
    };
    output.lines().filter(is_compared).map(comparable_line).collect()
}

fn comparable_line(line: &str) -> String {
    let is_of_word = |it: char| it.is_ascii_alphanumeric() || "_:.+-".contains(it);
    let mut words: Vec<String> = Vec::new();
    for word in line.split_whitespace() {
        let mut rest = word;
        let mut out = String::new();
        while !rest.is_empty() {
            let end = rest.find(|it| !is_of_word(it)).unwrap_or(rest.len());
            let (piece, after) = rest.split_at(end);
            out += &if differs(piece) { "*".to_owned() } else { squeeze(piece) };
            let mut others = after.chars();
            out.extend(others.next());
            rest = others.as_str();
        }
        words.push(out);
    }
    words.join(" ")
}

/// Whether a word is a token, an id, a date, a time, or a number of seconds since 1970.
fn differs(word: &str) -> bool {
    let bytes = word.as_bytes();
    let has = |length: usize, is_it: &dyn Fn(&u8) -> bool| bytes.windows(length).any(|it| it.iter().all(is_it));
    let is_hex = |it: &u8| it.is_ascii_digit() || (b'a'..=b'f').contains(it);
    let has_shape = |shape: &str| {
        bytes.windows(shape.len()).any(|it| {
            it.iter().zip(shape.bytes()).all(|(is, of)| if of == b'9' { is.is_ascii_digit() } else { *is == of })
        })
    };
    has(32, &is_hex)
        || has_shape("99999999-9999-9999")
        || (word.len() == 36 && word.matches('-').count() == 4)
        || has_shape("9999-99-99")
        || has_shape("99:99:99")
        || (bytes.len() == 10 && has(10, &u8::is_ascii_digit))
}

/// The line under the heads of columns, as short as it gets.
fn squeeze(piece: &str) -> String {
    if piece.bytes().all(|it| b"-+".contains(&it)) {
        piece.split('+').map(|_| "-").collect::<Vec<_>>().join("+")
    } else {
        piece.to_owned()
    }
}

fn is_error(line: &&str) -> bool {
    ["ERROR:", "FATAL:", "psql:", "invalid command", "error:", "no rows returned"]
        .iter()
        .any(|start| line.starts_with(start))
}

/// Functions of the extension's names in schema public, as the owner of a database could make them there. Their argument types fit
/// literals better, so that where the search path has public, wherever it has it, they are called.
const BETTER_FITS: &str = "
CREATE SCHEMA own;
CREATE EXTENSION temptoken SCHEMA own;
DO $$
DECLARE
    function text;
BEGIN
    FOR function IN
        SELECT format('public.%I(%s)', p.proname, (
            SELECT string_agg(CASE WHEN t.typcategory = 'A' THEN 'text[]' ELSE 'text' END, ', ' ORDER BY a.at)
            FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY AS a (type, at) JOIN pg_type AS t ON t.oid = a.type
            WHERE a.at <= number))
        FROM pg_proc AS p, generate_series(p.pronargs - p.pronargdefaults, p.pronargs::integer) AS number
        WHERE p.pronamespace = 'own'::regnamespace AND p.prorettype <> 'trigger'::regtype
    LOOP
        EXECUTE format('CREATE OR REPLACE FUNCTION %s RETURNS text LANGUAGE plpgsql AS %L', function,
            'BEGIN RAISE EXCEPTION ''another function is called''; END');
    END LOOP;
END
$$;
DROP EXTENSION temptoken;
DROP SCHEMA own;
-- The same for what PostgreSQL has, where its own does not fit exactly.
CREATE FUNCTION public.other(oid, regclass) RETURNS boolean LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'another operator is called'; END $$;
CREATE OPERATOR public.= (LEFTARG = oid, RIGHTARG = regclass, FUNCTION = public.other);
CREATE FUNCTION public.other(numeric, integer) RETURNS numeric LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'another operator is called'; END $$;
CREATE OPERATOR public.* (LEFTARG = numeric, RIGHTARG = integer, FUNCTION = public.other);
CREATE FUNCTION public.format(text, text) RETURNS text LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'another function is called'; END $$;
CREATE FUNCTION public.format(text, regclass, text) RETURNS text LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'another function is called'; END $$;";

#[test]
fn every_example_does_what_its_page_says() {
    let mut failures = String::new();
    for page in pages() {
        let examples = examples(&read(&page));
        if examples.is_empty() {
            continue;
        }
        // Before anything is called: schema public belongs to the owner of the database.
        let path = examples[0]
            .sql
            .lines()
            .chain(["no path"])
            .find(|line| line.contains("SET search_path = "))
            .unwrap_or("public");
        assert!(!path.contains("public"), "{}: its first example keeps schema public on the path", page.display());
        let cluster = Cluster::start(PRELOADED);
        cluster.run_script("postgres", BETTER_FITS);
        let printed = outputs(&cluster, &examples);
        assert_eq!(printed.len(), examples.len(), "{page:?}: an example does not end");
        for (example, printed) in examples.iter().zip(&printed) {
            let is_right = match &example.shown {
                Some(shown) => comparable(shown) == comparable(printed),
                None => !printed.lines().any(|line| is_error(&line)),
            };
            if !is_right {
                writeln!(failures, "{}:{}\n{}\n--- prints:\n{printed}", page.display(), example.line, example.sql)
                    .unwrap();
            }
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

#[test]
fn the_readme_shows_the_main_job() {
    let readme = read("README.md");
    let sql: String = examples(&readme).into_iter().map(|example| example.sql).collect();
    for job in ["mint", "validate", "try_validate", "authenticate", "delete_by_resource_id", "sweep_status"] {
        assert!(sql.contains(&format!("temptoken_{job}(")), "no example of temptoken_{job}()");
    }
    assert!(readme.lines().count() <= 400, "the README is too long; its details go to docs/");
}

// ---------------------------------------------------------------------------------------------------------------------
// Names and links
// ---------------------------------------------------------------------------------------------------------------------

/// What follows each `start` in `text`, as far as it is a name.
fn names<'a>(text: &'a str, start: &'a str) -> impl Iterator<Item = &'a str> {
    text.match_indices(start).map(move |(at, _)| {
        let rest = &text[at..];
        let end = rest[start.len()..].find(|it: char| !it.is_ascii_lowercase() && it != '_');
        end.map_or(rest, |end| &rest[..start.len() + end]).trim_end_matches('_')
    })
}

#[test]
fn every_function_and_setting_that_a_page_names_is_there() {
    let cluster = Cluster::with_extension(&[]);
    let mut client = cluster.connect("postgres");
    let functions = column(&mut client, "SELECT proname::text FROM pg_proc WHERE proname LIKE 'temptoken\\_%'");
    let in_schema = column(
        &mut client,
        "SELECT 'temptoken.' || relname FROM pg_class WHERE relnamespace = 'temptoken'::regnamespace
         UNION SELECT 'temptoken.' || proname FROM pg_proc WHERE pronamespace = 'temptoken'::regnamespace
         UNION SELECT name FROM pg_settings WHERE name LIKE 'temptoken.%'",
    );
    // Names of files and of the library, and tables that an example makes.
    let others = ["temptoken.so", "temptoken.control", "temptoken.temp_tokens_before", "temptoken.temp_tokens_rest"];
    // Pages name metrics too. The test of monitoring/ asks whether these are there.
    let board = read("monitoring/grafana.json") + &read("monitoring/alerts.yml");
    let metrics: BTreeSet<_> = names(&board, "temptoken_").collect();
    for page in pages() {
        let text = read(&page);
        for name in names(&text, "temptoken_") {
            let is_known = functions.contains(name) || metrics.contains(name) || name == "temptoken";
            assert!(is_known, "{page:?}: there is no {name}()");
        }
        for name in names(&text, "temptoken.").filter(|name| *name != "temptoken.") {
            assert!(in_schema.contains(name) || others.contains(&name), "{page:?}: there is no {name}");
        }
    }
}

/// The anchor that a heading gets.
fn anchor(heading: &str) -> String {
    let kept = |it: &char| it.is_alphanumeric() || " -_".contains(*it);
    heading.trim_start_matches('#').trim().to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")
}

#[test]
fn every_link_leads_somewhere() {
    for page in pages() {
        let text = read(&page);
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap();
            if target.starts_with("http") {
                continue;
            }
            let (file, part) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(root().join(&file).exists(), "{page:?}: {target}");
            let leads =
                part.is_empty() || read(&file).lines().any(|line| line.starts_with('#') && anchor(line) == part);
            assert!(leads, "{page:?}: {target}");
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// The reference
// ---------------------------------------------------------------------------------------------------------------------

fn column(client: &mut Client, sql: &str) -> BTreeSet<String> {
    client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

struct Function {
    name: String,
    arguments: String,
    result: String,
    comment: String,
    /// Of arguments and of columns of the result.
    parameters: Vec<String>,
    privileges: Vec<String>,
}

fn functions(client: &mut Client) -> Vec<Function> {
    let sql = "
        SELECT p.proname::text, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid),
               obj_description(p.oid, 'pg_proc'), coalesce(p.proargnames, '{}'),
               ARRAY(SELECT v.privilege FROM temptoken.privileges AS v
                     WHERE v.granted LIKE 'EXECUTE ON FUNCTION %' AND to_regprocedure(substr(v.granted, 21)) = p.oid
                     ORDER BY 1)
        FROM pg_proc AS p JOIN pg_depend AS d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
        JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'temptoken'
        WHERE p.pronamespace <> 'temptoken'::regnamespace
        ORDER BY p.proname";
    let function = |row: &postgres::Row| Function {
        name: row.get(0),
        arguments: row.get(1),
        result: row.get(2),
        comment: row.get::<_, Option<String>>(3).expect("every function has a COMMENT"),
        parameters: row.get(4),
        privileges: row.get(5),
    };
    client.query(sql, &[]).unwrap().iter().map(function).collect()
}

impl Function {
    /// What stands under its heading, up to the example.
    fn section(&self) -> String {
        let mut text = format!("```\n{}\n```\n\n", self.signature());
        for line in self.comment.lines() {
            // `Errors: …; ….` or `Errors, the first that holds: …`, at the end of a line or as one.
            let at = line
                .match_indices("Errors")
                .map(|(at, _)| at)
                .find(|at| line[..*at].is_empty() || line[..*at].ends_with(". "));
            let (said, errors) = line.split_at(at.unwrap_or(line.len()));
            if !said.is_empty() {
                text += &self.paragraph(said);
            }
            if let Some((label, errors)) = errors.split_once(": ") {
                write!(text, "{label}:\n\n").unwrap();
                for error in errors.split("; ") {
                    writeln!(text, "- {}", error.trim_end_matches('.').replace('*', "\\*")).unwrap();
                }
                text += "\n";
            }
        }
        let privileges: Vec<_> = self.privileges.iter().map(|privilege| format!("`{privilege}`")).collect();
        let allowed = match privileges.as_slice() {
            [] => "none covers it; the owner of the extension may call it".to_owned(),
            some => some.join(", "),
        };
        write!(text, "Privilege: {allowed}.\n\n").unwrap();
        text
    }

    fn signature(&self) -> String {
        let one_line = format!("{}({}) RETURNS {}", self.name, self.arguments, self.result);
        if one_line.len() <= 100 {
            return one_line;
        }
        format!("{}(\n    {}\n) RETURNS {}", self.name, self.arguments.replace(", ", ",\n    "), self.result)
    }

    /// A line of the COMMENT; where it says `name: what it is` of parameters, as a list of them.
    fn paragraph(&self, line: &str) -> String {
        let is_parameter = |name: &str| self.parameters.iter().any(|parameter| parameter == name);
        let is_label = |label: &str| !label.is_empty() && label.split(", ").all(is_parameter);
        let mut text = String::new();
        let mut said = String::new();
        let finish = |said: &mut String, text: &mut String| {
            if !said.is_empty() {
                writeln!(text, "{}", said.trim_end().replace('*', "\\*")).unwrap();
                said.clear();
            }
        };
        for sentence in line.split_inclusive(". ") {
            match sentence.split_once(": ").filter(|(label, _)| is_label(label)) {
                Some((label, what)) => {
                    finish(&mut said, &mut text);
                    let label: Vec<_> = label.split(", ").map(|name| format!("`{name}`")).collect();
                    write!(said, "- {}: {what}", label.join(", ")).unwrap();
                }
                None => said += sentence,
            }
        }
        finish(&mut said, &mut text);
        text + "\n"
    }
}

/// Rows of Markdown, with their head.
fn table(client: &mut Client, head: &[&str], sql: &str) -> String {
    let mut text = format!("| {} |\n|{}\n", head.join(" | "), "---|".repeat(head.len()));
    for row in client.query(sql, &[]).unwrap() {
        let cell = |at| row.get::<usize, Option<String>>(at).unwrap_or_default().replace('\n', " ").replace('|', "\\|");
        let cells: Vec<_> = (0..head.len()).map(cell).collect();
        writeln!(text, "| {} |", cells.join(" | ")).unwrap();
    }
    text
}

/// Puts `new` below the heading in the place of what stands there up to the first line that `ends` it.
fn replace_below(page: &mut String, heading: &str, new: &str, ends: impl Fn(&str) -> bool) {
    let start = page.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("{REFERENCE} has no {heading:?}"));
    let start = start + heading.len() + 3;
    let mut end = start;
    for line in page[start..].split_inclusive('\n') {
        if ends(line.trim_end()) {
            break;
        }
        assert!(!line.starts_with('#'), "{REFERENCE}: {heading:?} has no example");
        end += line.len();
    }
    page.replace_range(start..end, new);
}

#[test]
fn the_reference_says_what_the_catalog_says() {
    let cluster = Cluster::with_extension(&[]);
    let mut client = cluster.connect("postgres");
    let before = read(REFERENCE);
    let mut page = before.clone();
    for function in functions(&mut client) {
        let heading = format!("### {}", function.name);
        replace_below(&mut page, &heading, &function.section(), |line| line.starts_with("Example"));
    }
    for relation in ["scopes", "temp_tokens", "active_tokens", "privileges"] {
        let sql = format!(
            "SELECT format('`%s`', a.attname), format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END,
                    col_description(a.attrelid, a.attnum)
             FROM pg_attribute AS a
             WHERE a.attrelid = 'temptoken.{relation}'::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"
        );
        let columns = table(&mut client, &["column", "type", "meaning"], &sql);
        replace_below(&mut page, &format!("### temptoken.{relation}"), &columns, str::is_empty);
    }
    let settings = table(
        &mut client,
        &["setting", "default", "bounds", "meaning", "changed by"],
        "SELECT format('`%s`', name),
                CASE WHEN boot_val = '' THEN 'empty' ELSE format('`%s`', boot_val || coalesce(' ' || unit, '')) END,
                CASE WHEN vartype = 'integer' THEN format('%s to %s', min_val, max_val) ELSE vartype END,
                short_desc || ' ' || extra_desc,
                CASE context WHEN 'sighup' THEN 'reload'
                             WHEN 'superuser' THEN 'reload; a superuser: SET, ALTER ROLE, ALTER DATABASE'
                             ELSE context END
         FROM pg_settings WHERE name LIKE 'temptoken.%' ORDER BY name",
    );
    replace_below(&mut page, "## Settings", &settings, str::is_empty);
    let privileges = table(
        &mut client,
        &["privilege", "covers"],
        "SELECT format('`%s`', privilege), string_agg(regexp_replace(granted, '^EXECUTE ON FUNCTION [^.]*[.](.*)\\(.*$', '`\\1`'), ', ' ORDER BY granted)
         FROM temptoken.privileges GROUP BY privilege ORDER BY array_position('{issue,validate,manage,monitor}', privilege)",
    );
    replace_below(&mut page, "## Privileges", &privileges, str::is_empty);
    let internal = table(
        &mut client,
        &["function", "what it is for"],
        "SELECT format('`%s(%s)`', p.oid::regproc, pg_get_function_identity_arguments(p.oid)), obj_description(p.oid, 'pg_proc')
         FROM pg_proc AS p WHERE p.pronamespace = 'temptoken'::regnamespace ORDER BY p.proname",
    );
    replace_below(&mut page, "## Internal functions", &internal, str::is_empty);
    if page != before {
        if std::env::var_os("TEMPTOKEN_WRITE_DOCS").is_some() {
            fs::write(root().join(REFERENCE), page).unwrap();
            return;
        }
        let differing = page.lines().zip(before.lines()).find(|(new, old)| new != old);
        let (new, old) = differing.unwrap_or_default();
        panic!(
            "{REFERENCE} is not what the catalog says: run TEMPTOKEN_WRITE_DOCS=1 cargo test --test docs\n\
             the page:    {old}\nthe catalog: {new}"
        );
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// The sources
// ---------------------------------------------------------------------------------------------------------------------

/// Every file of src/: its path below that, and its text.
fn sources() -> Vec<(String, String)> {
    fn collect(dir: &Path, found: &mut Vec<(String, String)>) {
        for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                collect(&path, found);
            } else {
                let name = path.strip_prefix(root().join("src")).unwrap().to_str().unwrap().to_owned();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let mut found = Vec::new();
    collect(&root().join("src"), &mut found);
    found
}

/// The rooms that `text` imports from: `crate::room` and `crate::{one, another}`.
fn rooms_in(text: &str) -> BTreeSet<&str> {
    let is_of_name = |it: char| it.is_ascii_lowercase() || it == '_';
    let imports = text.match_indices("crate::").flat_map(|(at, start)| {
        let rest = &text[at + start.len()..];
        let list = rest.strip_prefix('{').map_or(rest, |list| list.split('}').next().unwrap_or_default());
        let count = if rest.starts_with('{') { usize::MAX } else { 1 };
        list.split(',').take(count).map(move |name| {
            let name = name.trim_start();
            name.split(|it| !is_of_name(it)).next().unwrap_or_default()
        })
    });
    imports.filter(|name| !name.is_empty()).collect()
}

/// What docs/internals.md says of the layers.
#[test]
fn imports_run_one_way() {
    /// Files by the start of their path, and the rooms that they may import. `lib.rs` and `api.rs` may import any.
    const MAY_IMPORT: &[(&str, &[&str])] = &[
        ("token.rs", &[]),
        ("values.rs", &[]),
        ("memory.rs", &[]),
        ("scope/", &["token", "values"]),
        ("pg/", &["values"]),
        ("settings.rs", &["scope", "token"]),
        ("errors/", &["pg", "scope", "values"]),
        ("counters.rs", &["errors", "pg"]),
        ("identity.rs", &["errors", "pg", "token", "values"]),
        ("store/", &["errors", "pg", "scope", "token", "values"]),
        ("mint.rs", &["counters", "errors", "pg", "scope", "settings", "store", "token", "values"]),
        ("validate.rs", &["counters", "errors", "pg", "scope", "store", "token"]),
        ("postgrest.rs", &["errors", "pg", "settings", "token", "validate"]),
        ("sweep/", &["counters", "errors", "pg", "settings", "store", "token"]),
    ];
    for (file, text) in sources() {
        if ["lib.rs", "api.rs"].contains(&file.as_str()) {
            continue;
        }
        let (own, may) = MAY_IMPORT.iter().find(|(start, _)| file.starts_with(start)).unwrap_or_else(|| {
            panic!("src/{file} is not in docs/internals.md, nor here");
        });
        for room in rooms_in(&text) {
            assert!(may.contains(&room) || own.starts_with(room), "src/{file} imports {room}");
        }
    }
}

/// The files of src/ that make errors have their SQLSTATEs as `b"TT001"`.
#[test]
fn the_reference_has_every_error() {
    let source: String = sources().into_iter().map(|(_, text)| text).collect();
    let reference = read(REFERENCE);
    let is_code = |it: &&str| it.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    let codes: BTreeSet<_> = source
        .match_indices("b\"")
        .filter_map(|(at, _)| source[at + 2..].split_once('"').map(|(code, _)| code).filter(|code| code.len() == 5))
        .filter(is_code)
        .collect();
    assert!(codes.contains("TT001"));
    for code in codes {
        assert!(reference.contains(&format!("\n| {code} |")), "{REFERENCE} has no row of error {code}");
    }
}
