"""The way of README.md, on a real cluster, with the exporter and the Prometheus of the distribution.

TEMPTOKEN_WRITE_DOCS=1 also has traffic for some minutes, and writes docs/monitoring.png.
"""

import json
import math
import os
import re
import shlex
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from pathlib import Path

import psycopg
import pytest

import picture
from conftest import ROOT, Cluster, Server, wait_until

HERE = Path(__file__).parent
README = (HERE / "README.md").read_text()
BOARD = json.loads((HERE / "grafana.json").read_text())
WRITES_DOCS = "TEMPTOKEN_WRITE_DOCS" in os.environ

SCOPES = """
SELECT auth.temptoken_register_scope('downloads', ARRAY['GET /files/{id}'], '1 hour', '{id}');
SELECT auth.temptoken_register_scope('password_reset', ARRAY['GET /reset/{user}', 'POST /reset/{user}'], '1 hour', '{user}',
                                     max_uses => 1, spending_methods => '{POST}');
"""


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


class Traffic:
    """What an application does, and how often it has done what, by scope."""

    def __init__(self, connection):
        self.sql = lambda *statement: connection.execute(*statement).fetchone()[0]
        self.done = Counter()

    def mint(self, scope, resource_id, ttl="1 hour"):
        self.done[scope, "minted"] += 1
        return self.sql("SELECT auth.temptoken_mint(%s, %s, %s::interval)", (scope, resource_id, ttl))

    def ask(self, scope, token, method, path):
        status = self.sql("SELECT (auth.temptoken_try_validate(%s, %s, %s)).status", (token, method, path))
        self.done[None if status == "token_not_found" else scope, status] += 1
        self.done[scope, "spent"] += (scope, method, status) == ("password_reset", "POST", "ok")
        return status

    def download(self, ttl="1 hour"):
        token = self.mint("downloads", "42", ttl)
        assert self.ask("downloads", token, "GET", "/files/42") == "ok"
        return token

    def reset(self, ttl="1 hour"):
        token = self.mint("password_reset", "ann", ttl)
        assert self.ask("password_reset", token, "GET", "/reset/ann") == "ok"
        assert self.ask("password_reset", token, "POST", "/reset/ann") == "ok"
        return token

    def some(self):
        """A little of everything but expiry."""
        token = self.download()
        assert self.ask("downloads", token, "GET", "/files/43") == "route_not_allowed"
        assert self.ask("password_reset", self.reset(), "POST", "/reset/ann") == "token_used_up"
        assert self.ask("downloads", "a guess", "GET", "/files/42") == "token_not_found"

    def expired(self):
        """A token of each scope that has expired; one was presented after that, too."""
        tokens = {scope: self.mint(scope, "42", "1 millisecond") for scope in ["downloads", "password_reset"]}
        wait_until("it has expired", lambda: self.ask("downloads", tokens["downloads"], "GET", "/files/42") == "token_expired")


class Watched:
    """A server with the databases app and shop, the exporter, and Prometheus, set up as README.md says."""

    def __init__(self, home):
        self.cluster = Cluster()
        for database in ["app", "shop"]:
            self.cluster.create(database, "")
        script = "".join(blocks("sql"))
        with self.connect() as connection:
            connection.execute(script)
        with self.connect("shop") as connection:
            # The role is there already.
            connection.execute(re.sub(r"^(CREATE|ALTER) ROLE .*\n", "", script, flags=re.M))
        with self.connect() as connection:
            connection.execute(SCOPES)
            # Three queries that wait for a lock have to be done before the next scrape.
            connection.execute("ALTER ROLE prometheus SET lock_timeout = '200ms'")
        # Nothing waits for the cache of a minute, nor for the next scrape.
        queries = (HERE / "queries.yaml").read_text()
        assert queries.count("cache_seconds: 50") == 2
        (home / "queries.yaml").write_text(queries.replace("cache_seconds: 50", "cache_seconds: 1"))
        self.home = home
        self.exporter = self.start_exporter()
        config = self.home / "prometheus.yml"
        text, = blocks("yaml")
        for said, here in [("/etc/prometheus/rules/alerts.yml", HERE / "alerts.yml"), ("scrape_interval: 1m", "scrape_interval: 2s"),
                           ("127.0.0.1:9187", f"127.0.0.1:{self.exporter.port}")]:
            assert text.count(said) == 1
            text = text.replace(said, str(here))
        config.write_text("global:\n  evaluation_interval: 1s\n" + text)
        subprocess.run(["promtool", "check", "config", config], check=True)
        command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={home / 'data'}", "--web.listen-address=127.0.0.1:$PORT"]
        self.prometheus = Server(command, home, {})
        # It listens before it has its rules and data.
        wait_until("Prometheus is ready", self.is_ready)

    def start_exporter(self, port=None, several=True, user="prometheus"):
        named = dict(re.findall(r"^(\w+)=['\"](.*)['\"]$", blocks("ini")[0], re.M))
        name = named["DATA_SOURCE_NAME"].replace("/run/postgresql", str(self.cluster.dir)).replace("user=prometheus", f"user={user}")
        arguments = named["ARGS"].replace("/etc/temptoken", str(self.home)).replace(":9187", ":$PORT")
        for_several, = blocks("text")
        command = ["prometheus-postgres-exporter", *shlex.split(arguments), *(shlex.split(for_several) if several else [])]
        return Server(command, self.home, {"DATA_SOURCE_NAME": name}, port)

    def connect(self, database="app", user="postgres"):
        return psycopg.connect(self.cluster.url(user, database), autocommit=True)

    def metrics(self, exporter=None):
        return urllib.request.urlopen(f"{(exporter or self.exporter).url}/metrics").read().decode()

    def is_ready(self):
        try:
            return urllib.request.urlopen(f"{self.prometheus.url}/-/ready").status == 200
        except urllib.error.HTTPError:
            return False

    def ask(self, path, **parameters):
        """What Prometheus answers."""
        url = f"{self.prometheus.url}/api/v1/{path}?{urllib.parse.urlencode(parameters, doseq=True)}"
        try:
            return json.load(urllib.request.urlopen(url))["data"]
        except urllib.error.HTTPError as error:
            pytest.fail(f"{parameters}: {error.read().decode()}")

    def series(self, expression):
        """Labels and value of each series."""
        return [(it["metric"], float(it["value"][1])) for it in self.ask("query", query=expression)["result"]]

    def value(self, expression):
        values = [value for _, value in self.series(expression)]
        return values[0] if len(values) == 1 else None

    def wait_for(self, expression, value):
        wait_until(f"{expression} is {value}", lambda: self.value(expression) == value)

    def wait_for_alert(self, name, **labels):
        """Until the rule holds. How long it must before it fires is what alerts_test.yml asks."""
        holds = lambda alert: alert["labels"]["alertname"] == name and labels.items() <= alert["labels"].items()
        wait_until(f"{name} holds", lambda: any(map(holds, self.ask("alerts")["alerts"])))

    def wait_for_peace(self):
        wait_until("no alert holds", lambda: not self.ask("alerts")["alerts"])

    def close(self):
        self.prometheus.close()
        self.exporter.close()
        self.cluster.close()


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    watched = Watched(tmp_path_factory.mktemp("monitoring"))
    yield watched
    watched.close()


@pytest.fixture(scope="module")
def traffic(watched):
    connection = watched.connect()
    yield Traffic(connection)
    connection.close()


def setting(watched, **settings):
    """Changes settings of sweeping. None: as it was."""
    with watched.connect() as connection:
        for name, value in settings.items():
            change = f"SET temptoken.{name} = '{value}'" if value else f"RESET temptoken.{name}"
            connection.execute(f"ALTER SYSTEM {change}")
        connection.execute("SELECT pg_reload_conf()")


# --- Rules, without a server ------------------------------------------------------------------------------------------


def test_the_rules_are_valid_and_each_has_a_test():
    subprocess.run(["promtool", "check", "rules", HERE / "alerts.yml"], check=True)
    subprocess.run(["promtool", "test", "rules", HERE / "alerts_test.yml"], check=True)
    rules = re.findall(r"- alert: (\w+)", (HERE / "alerts.yml").read_text())
    fired = re.findall(r"alertname: (\w+)\n +eval_time: \w+\n +exp_alerts:", (HERE / "alerts_test.yml").read_text())
    quiet = re.findall(r"alertname: (\w+)\n +eval_time: \w+\n(?! +exp_alerts:)", (HERE / "alerts_test.yml").read_text())
    assert set(rules) == set(fired) == set(quiet)
    assert rules == re.findall(r"^\| (Temptoken\w+) \|", README, re.M)


# --- What the exporter tells ------------------------------------------------------------------------------------------


def test_the_role_may_do_nothing_else(watched):
    with watched.connect(user="prometheus") as connection:
        for statement in ["SELECT auth.temptoken_mint('downloads', '42', '1 hour')", "TABLE temptoken.temp_tokens",
                          "SELECT auth.temptoken_validate('x', 'GET', '/')", "SELECT auth.temptoken_delete_by_scope('downloads')"]:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
        member = connection.execute("SELECT count(*) FROM pg_auth_members WHERE member = 'prometheus'::regrole").fetchone()
    assert member == (0,)


def test_each_metric_says_what_was_done(watched, traffic):
    for _ in range(3):
        traffic.some()
    traffic.expired()
    watched.wait_for("sum(temptoken_mints_total)", sum(count for (_, what), count in traffic.done.items() if what == "minted"))
    done = traffic.done
    for scope in ["downloads", "password_reset"]:
        assert watched.value(f'temptoken_mints_total{{scope="{scope}"}}') == done[scope, "minted"]
        assert watched.value(f'temptoken_spends_total{{scope="{scope}"}}') == done[scope, "spent"]
        assert watched.value(f'temptoken_live_tokens{{scope="{scope}"}}') == done[scope, "minted"] - 1
        assert watched.value(f'temptoken_expired_tokens{{scope="{scope}"}}') == 1
    told = {(labels.get("scope"), labels["outcome"]): value for labels, value in watched.series("temptoken_validations_total")
            if labels["datname"] == "app"}
    answers = {key: count for key, count in done.items() if key[1] not in ("minted", "spent")}
    assert {key: value for key, value in told.items() if value} == answers
    assert {outcome for _, outcome in answers} == {"ok", "token_not_found", "token_expired", "route_not_allowed", "token_used_up"}
    assert len(told) == 2 * 5 + 1, "zeros too, so that a first refusal is a rise"


def test_sweeping_shows(watched, traffic):
    assert watched.value('temptoken_sweep_waiting_rows{datname="app"}') == 2
    setting(watched, sweep_interval="1s")
    watched.wait_for('temptoken_sweep_removed_rows_total{datname="app"}', 2)
    watched.wait_for('temptoken_sweep_waiting_rows{datname="app"}', 0)
    for database in ["app", "shop"]:
        of = f'{{datname="{database}"}}'
        finish = f"temptoken_sweep_last_finish_timestamp_seconds{of}"
        wait_until("it is known to be swept", lambda: abs(time.time() - watched.value(finish)) < 10)
        assert abs(watched.value(f"temptoken_sweep_next_start_timestamp_seconds{of}") - time.time()) < 10
        assert watched.value(f"temptoken_sweep_scheduled{of}") == 1
        assert watched.value(f"temptoken_sweep_failing{of}") == 0
    # NaN while a sweep goes on.
    wait_until("it has a duration", lambda: 0 < watched.value('temptoken_sweep_last_duration_seconds{datname="app"}') < 4)
    setting(watched, sweep_interval=None)


def test_sizes_are_those_of_the_table_and_of_its_partitions(watched):
    size = "SELECT pg_table_size(%s::regclass), pg_indexes_size(%s::regclass)"
    with watched.connect() as connection:
        table, indexes = connection.execute(size, 2 * ["temptoken.temp_tokens"]).fetchone()
        watched.wait_for('temptoken_table_bytes{datname="app"}', table)
        watched.wait_for('temptoken_table_index_bytes{datname="app"}', indexes)
        # Partitioned, and taken back.
        query = re.search(r"^temptoken_table:\n  query: \|\n((?:    .*\n)+)", (HERE / "queries.yaml").read_text(), re.M).group(1)
        with connection.transaction(force_rollback=True):
            connection.execute("""
                ALTER TABLE temptoken.temp_tokens RENAME TO before;
                CREATE TABLE temptoken.temp_tokens (LIKE temptoken.before INCLUDING ALL) PARTITION BY RANGE (id);
                CREATE TABLE temptoken.rest PARTITION OF temptoken.temp_tokens DEFAULT;
                INSERT INTO temptoken.temp_tokens TABLE temptoken.before;
            """)
            of_rest = connection.execute(size, 2 * ["temptoken.rest"]).fetchone()
            assert connection.execute(query).fetchone()[1:] == of_rest and of_rest[0] > 0


def test_names_are_as_prometheus_wants_them_and_in_the_readme(watched):
    text = watched.metrics()
    subprocess.run(["promtool", "check", "metrics"], input=text.encode(), check=True)
    named = re.findall(r"^\| `(temptoken_\w+)` \|", README, re.M)
    assert set(named) == set(re.findall(r"^(temptoken_\w+)", text, re.M))


def test_one_database_needs_fewer_arguments(watched):
    exporter = watched.start_exporter(several=False)
    assert set(re.findall(r'^temptoken_.*datname="(\w+)"', watched.metrics(exporter), re.M)) == {"app"}
    exporter.close()


def test_a_member_of_pg_monitor_needs_no_grant_of_ours(watched):
    with watched.connect() as connection:
        connection.execute("CREATE ROLE member LOGIN IN ROLE pg_monitor")
        connection.execute("GRANT USAGE ON SCHEMA auth TO pg_monitor")
        connection.execute("ALTER ROLE member SET search_path = auth")
    exporter = watched.start_exporter(several=False, user="member")
    of_app = lambda text: set(re.findall(r'^(temptoken_.*datname="app".*) ', text, re.M))
    text = watched.metrics(exporter)
    assert len(of_app(text)) > 14
    assert of_app(text) == of_app(watched.metrics())
    exporter.close()


# --- The rules and the board ------------------------------------------------------------------------------------------


def resolved(expression, window):
    """A query of the board, as Grafana sends it when all is chosen."""
    for variable, value in [("$__rate_interval", window), ("$instance", ".*"), ("$datname", ".*")]:
        expression = expression.replace(variable, value)
    assert "$" not in expression
    return expression


def targets():
    return [(panel, target) for panel in BOARD["panels"] for target in panel["targets"]]


def test_the_rules_load_and_none_holds_while_all_is_well(watched):
    group, = watched.ask("rules")["groups"]
    assert len(group["rules"]) == len(re.findall("- alert:", (HERE / "alerts.yml").read_text()))
    wait_until("each was evaluated", lambda: all(rule["health"] == "ok" for rule in watched.ask("rules")["groups"][0]["rules"]))
    watched.wait_for_peace()


def test_rules_and_board_name_what_the_exporter_serves(watched):
    served = set(re.findall(r"^(\w+)", watched.metrics(), re.M)) | {"up"}
    asked = {rule["name"]: rule["query"] for rule in watched.ask("rules")["groups"][0]["rules"]}
    asked |= {(panel["title"], target["refId"]): target["expr"] for panel, target in targets()}
    asked |= {variable["name"]: variable["definition"] for variable in BOARD["templating"]["list"][1:]}
    named = {where: set(re.findall(r"\b(?:temptoken_|pg_|up\b)\w*", expression)) for where, expression in asked.items()}
    for where, names in named.items():
        assert names and names <= served, where
    # Of these, the board shows the sum of all scopes as rows that wait for a sweep.
    unused = {name for name in served if name.startswith("temptoken_")} - set().union(*named.values())
    assert unused == {"temptoken_expired_tokens"}


def test_each_query_of_the_board_answers(watched, traffic):
    before = watched.value('sum(temptoken_mints_total)')
    for _ in range(3):
        traffic.some()
    watched.wait_for("sum(temptoken_mints_total)", before + 6)
    for panel, target in targets():
        expression = resolved(target["expr"], "1m")
        assert watched.series(expression), (panel["title"], expression)
        # The duration of a sweep is NaN while one goes on.
        wait_until(f"{panel['title']} has numbers", lambda: not any(math.isnan(value) for _, value in watched.series(expression)))
        series = watched.series(expression)
        named = re.findall(r"{{(\w+)}}", target["legendFormat"])
        assert any(set(named) <= set(labels) for labels, _ in series), panel["title"]
    for variable in BOARD["templating"]["list"][1:]:
        match, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"]).groups()
        assert watched.ask(f"label/{label}/values", **{"match[]": resolved(match, "1m")}), variable["name"]


def rush(watched, traffic, seconds):
    """Traffic that comes and goes, with somebody who guesses for a while."""
    setting(watched, sweep_interval="20s")
    begun = time.monotonic()
    while (gone := time.monotonic() - begun) < seconds:
        for _ in range(round(6 + 4 * math.sin(gone / 17))):
            token = traffic.download("25 seconds")
            for path in ["/files/42", "/files/42", "/files/43"][:1 + (gone % 7 > 2) + (gone % 29 > 25)]:
                traffic.ask("downloads", token, "GET", path)
        for _ in range(round(2 + 2 * math.cos(gone / 23))):
            traffic.mint("password_reset", "bob", "40 seconds")
            token = traffic.reset("40 seconds")
            if gone % 5 > 4:
                traffic.ask("password_reset", token, "POST", "/reset/ann")
        if seconds * 0.6 < gone < seconds * 0.75:
            for _ in range(9):
                traffic.ask("downloads", "a guess", "GET", "/files/42")
        # The pace of the traffic; nothing is waited for.
        time.sleep(0.4)
    setting(watched, sweep_interval=None)


def test_the_picture(watched, traffic, browser, tmp_path):
    if WRITES_DOCS:
        rush(watched, traffic, 240)
    end = time.time()
    begin = end - (210 if WRITES_DOCS else 10)
    answers = {}
    for panel, target in targets():
        parameters = {"query": resolved(target["expr"], "16s"), "start": begin, "end": end, "step": 2}
        for series in watched.ask("query_range", **parameters)["result"]:
            legend = re.sub(r"{{(\w+)}}", lambda label: series["metric"].get(label[1], ""), target["legendFormat"]).strip()
            points = [(at, float(value)) for at, value in series["values"] if value != "NaN"]
            answers.setdefault(panel["id"], []).append((legend, points))
    path = ROOT / "docs/monitoring.png" if WRITES_DOCS else tmp_path / "monitoring.png"
    page = browser.new_page(viewport={"width": 24 * picture.COLUMN + picture.GAP, "height": 600})
    page.set_content(picture.page(BOARD, answers, begin, end))
    assert page.locator("section").count() == len(BOARD["panels"])
    page.screenshot(path=path, full_page=True)
    assert path.stat().st_size < 200_000


# --- Trouble ----------------------------------------------------------------------------------------------------------


def test_a_sweep_that_fails_is_told(watched, traffic):
    with watched.connect() as connection:
        connection.execute("""
            CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not now'; END $$;
            CREATE TRIGGER refuse BEFORE DELETE ON temptoken.temp_tokens FOR EACH ROW EXECUTE FUNCTION public.refuse();
        """)
        traffic.expired()
        setting(watched, sweep_interval="1s")
        watched.wait_for_alert("TemptokenSweepFailing", datname="app")
        assert watched.value('temptoken_sweep_waiting_rows{datname="app"}') == 2
        connection.execute("DROP TRIGGER refuse ON temptoken.temp_tokens")
    watched.wait_for('temptoken_sweep_waiting_rows{datname="app"}', 0)
    watched.wait_for_peace()


def test_a_database_that_is_not_swept_is_told(watched):
    setting(watched, sweep_databases="app")
    watched.wait_for_alert("TemptokenNotSwept", datname="shop")
    setting(watched, sweep_databases=None)
    watched.wait_for_peace()


def test_a_table_that_is_locked_keeps_the_rest_from_nobody(watched):
    with watched.connect() as connection, connection.transaction():
        connection.execute("LOCK TABLE temptoken.temp_tokens")
        watched.wait_for_alert("TemptokenQueriesFail")
        text = watched.metrics()
        assert re.search(r'^temptoken_sweep_waiting_rows{datname="app",.*} NaN$', text, re.M)
        assert re.search(r'^temptoken_sweep_scheduled{datname="app",.*} 1$', text, re.M)
        assert re.search(r'^temptoken_table_bytes{datname="shop",.*} \d+$', text, re.M)
        assert watched.value('up{job="temptoken"}') == 1
    watched.wait_for_peace()


def test_a_role_without_the_privilege_is_told(watched):
    with watched.connect() as connection:
        connection.execute("SELECT auth.temptoken_revoke_grant('prometheus', 'monitor')")
        watched.wait_for_alert("TemptokenQueriesFail")
        connection.execute("SELECT auth.temptoken_grant('prometheus', 'monitor')")
    watched.wait_for_peace()


def test_a_database_that_is_gone_is_told_and_found_again(watched):
    with watched.connect("postgres") as connection:
        connection.execute("ALTER ROLE prometheus NOLOGIN")
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'prometheus'")
        watched.wait_for_alert("TemptokenQueriesFail")
        connection.execute("ALTER ROLE prometheus LOGIN")
    watched.wait_for_peace()


def test_an_exporter_that_is_gone_is_told(watched):
    watched.exporter.close()
    watched.wait_for_alert("TemptokenExporterDown", job="temptoken")
    watched.exporter = watched.start_exporter(watched.exporter.port)
    watched.wait_for_peace()


def test_what_is_not_known_without_preloading_is_nan(watched):
    """Runs last: the server is another one after that."""
    # ALTER SYSTEM would write a list of one empty name.
    with open(watched.cluster.dir / "data/postgresql.conf", "a") as conf:
        conf.write("shared_preload_libraries = ''\n")
    watched.cluster.run("pg_ctl", "-l", str(watched.cluster.log), "-w", "-s", "restart")
    watched.wait_for_alert("TemptokenNotSwept", datname="app")
    text = watched.metrics()
    for metric in ["mints_total", "spends_total", "sweep_last_finish_timestamp_seconds", "sweep_next_start_timestamp_seconds"]:
        assert set(re.findall(rf"^temptoken_{metric}{{.*}} (.*)$", text, re.M)) == {"NaN"}, metric
    assert "temptoken_validations_total" not in text
    assert re.search(r'^temptoken_live_tokens{datname="app",.*} \d+$', text, re.M)
