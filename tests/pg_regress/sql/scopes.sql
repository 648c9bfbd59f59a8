-- Registering, looking up and unregistering scopes; every rule, by function and by plain INSERT and UPDATE.
-- Array literals need quotes around a route with a placeholder: ARRAY[...] spares that.

SELECT public.temptoken_register_scope('files', ARRAY['GET /files/{id}'], '1 hour', '{id}');
SELECT (public.temptoken_lookup_scope('files')).name,
       (public.temptoken_lookup_scope('files')).allowed_routes,
       (public.temptoken_lookup_scope('files')).max_ttl = '1 hour' AS max_ttl,
       (public.temptoken_lookup_scope('files')).resource_id_in_path,
       (public.temptoken_lookup_scope('files')).max_uses,
       (public.temptoken_lookup_scope('files')).spending_methods;
-- Whatever a column that was added is called.
BEGIN;
ALTER TABLE temptoken.scopes ADD s integer DEFAULT 5, ADD scopes text;
SELECT (public.temptoken_lookup_scope('files')).name, (public.temptoken_lookup_scope('files')).s;
ROLLBACK;
SELECT public.temptoken_lookup_scope('nothing') IS NULL AS none, public.temptoken_lookup_scope(NULL) IS NULL AS none;

-- A duplicate fails loudly and leaves the scope as it was, unless it is meant to replace.
SELECT public.temptoken_register_scope('files', ARRAY['PUT /files'], '1 minute');
SELECT (public.temptoken_lookup_scope('files')).allowed_routes;
SELECT public.temptoken_register_scope('files', ARRAY['PUT /files'], '1 minute', replace => true);
SELECT (public.temptoken_lookup_scope('files')).allowed_routes, (public.temptoken_lookup_scope('files')).resource_id_in_path;
SELECT public.temptoken_register_scope('files', ARRAY['PUT /files'], '1 minute', replace => NULL);

SELECT public.temptoken_unregister_scope('files');
SELECT public.temptoken_unregister_scope('files');
SELECT public.temptoken_unregister_scope(NULL);

-- Names are compared byte for byte.
SELECT public.temptoken_register_scope('Files', ARRAY['GET /F'], '1 hour');
SELECT public.temptoken_register_scope('files', ARRAY['GET /f'], '1 hour');
SELECT public.temptoken_register_scope('files.', ARRAY['GET /f'], '1 hour');
SELECT name || '|' AS name, allowed_routes FROM temptoken.scopes ORDER BY name;
SELECT count(public.temptoken_unregister_scope(name)) FROM temptoken.scopes;

-- The rules.
CREATE TEMP TABLE bad (number serial, name text, routes text[], placeholder text, max_ttl interval, max_uses integer,
    spending_methods text[]);
INSERT INTO bad (name, routes, placeholder, max_ttl, max_uses, spending_methods) VALUES
    ('', '{GET /a}', '', '1 hour', NULL, NULL),
    (repeat('n', 256), '{GET /a}', '', '1 hour', NULL, NULL),
    ('a b', '{GET /a}', '', '1 hour', NULL, NULL),
    ('a ', '{GET /a}', '', '1 hour', NULL, NULL),
    ('é', '{GET /a}', '', '1 hour', NULL, NULL),
    ('a"b', '{GET /a}', '', '1 hour', NULL, NULL),
    ('a' || chr(92), '{GET /a}', '', '1 hour', NULL, NULL),
    (E'a\n', '{GET /a}', '', '1 hour', NULL, NULL),
    ('s', '{}', '', '1 hour', NULL, NULL),
    ('s', '{{GET /a,GET /b},{GET /c,GET /d}}', '', '1 hour', NULL, NULL),
    ('s', '{GET /a,NULL}', '', '1 hour', NULL, NULL),
    ('s', '{GET}', '', '1 hour', NULL, NULL),
    ('s', '{/a}', '', '1 hour', NULL, NULL),
    ('s', '{" /a"}', '', '1 hour', NULL, NULL),
    ('s', '{"GET  /a"}', '', '1 hour', NULL, NULL),
    ('s', '{GET /a,GET a}', '', '1 hour', NULL, NULL),
    ('s', '{GET /a/../b}', '', '1 hour', NULL, NULL),
    ('s', '{GET /a/./b}', '', '1 hour', NULL, NULL),
    ('s', '{GET /a//b}', '', '1 hour', NULL, NULL),
    ('s', '{GET //}', '', '1 hour', NULL, NULL),
    ('s', '{GET /a," GET /b"}', '', '1 hour', NULL, NULL),
    ('s', '{"GET /a "}', '', '1 hour', NULL, NULL),
    ('s', '{"GET /a/{x}/b/{y}"}', '{x}', '1 hour', NULL, NULL),
    ('s', '{"GET /a/<id>"}', '', '1 hour', NULL, NULL),
    ('s', '{"GET /a/[id]/{id}"}', '{id}', '1 hour', NULL, NULL),
    ('s', '{"GET /a b"}', '', '1 hour', NULL, NULL),
    ('s', '{GET /a?b}', '', '1 hour', NULL, NULL),
    ('s', '{GET /a#b}', '', '1 hour', NULL, NULL),
    ('s', '{GET /a%20b}', '', '1 hour', NULL, NULL),
    ('s', '{GET /é}', '', '1 hour', NULL, NULL),
    ('s', '{GET /a|b}', '', '1 hour', NULL, NULL),
    ('s', '{"GET /{id}"}', '', '1 hour', NULL, NULL),
    ('s', '{"GET /{id}",GET /a}', '{id}', '1 hour', NULL, NULL),
    ('s', '{GET /a}', '{id}', '1 hour', NULL, NULL),
    ('s', '{GET /a}', '/', '1 hour', NULL, NULL),
    ('s', '{GET /a}', ' ', '1 hour', NULL, NULL),
    ('s', '{GET /a}', '', '0', NULL, NULL),
    ('s', '{GET /a}', '', '-1 second', NULL, NULL),
    ('s', '{GET /a}', '', '1 month', NULL, NULL),
    ('s', '{GET /a}', '', '1 year', NULL, NULL),
    ('s', '{GET /a}', '', '1 month -30 days 1 hour', NULL, NULL),
    ('s', '{GET /a}', '', '1 hour', 0, NULL),
    ('s', '{GET /a}', '', '1 hour', -1, NULL),
    ('s', '{GET /a}', '', '1 hour', 1, '{}'),
    ('s', '{GET /a}', '', '1 hour', 1, '{POST}'),
    ('s', '{GET /a}', '', '1 hour', 1, '{GET,NULL}');

CREATE FUNCTION pg_temp.state_of(statement text, OUT state text, OUT detail text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    state := 'ok';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, detail = PG_EXCEPTION_DETAIL;
END $$;

SELECT number, f.state, f.detail, i.state AS insert, i.detail = f.detail AS same
FROM bad,
    pg_temp.state_of(format('SELECT public.temptoken_register_scope(%L, %L, %L, %L, %L, %L)',
        name, routes, max_ttl, placeholder, max_uses, spending_methods)) AS f,
    pg_temp.state_of(format('INSERT INTO temptoken.scopes VALUES (%L, %L, %L, %L, %L, %L)',
        name, routes, placeholder, max_ttl, max_uses, spending_methods)) AS i
ORDER BY number;

-- Limits.
SELECT f.* FROM unnest(ARRAY[
    'SELECT public.temptoken_register_scope(''s'', array_fill(''GET /a''::text, ARRAY[1001]), ''1 hour'')',
    'SELECT public.temptoken_register_scope(''s'', array_fill(''GET /a''::text, ARRAY[1000001]), ''1 hour'')',
    'SELECT public.temptoken_register_scope(''s'', ARRAY[''GET /'' || repeat(''a'', 4092)], ''1 hour'')',
    'SELECT public.temptoken_register_scope(''s'', ARRAY[''GET /'' || repeat(''a'', 65)], ''1 hour'', repeat(''a'', 65))',
    'SELECT public.temptoken_register_scope(''s'', ARRAY[''GET /a''], ''1 hour'',
        spending_methods => array_fill(''GET''::text, ARRAY[1001]))',
    'SELECT public.temptoken_register_scope(''s'', array_fill(''GET /a''::text, ARRAY[1000]), ''1 hour'')',
    'SELECT public.temptoken_unregister_scope(''s'')',
    'SELECT public.temptoken_register_scope(''s'', ARRAY[''GET /'' || repeat(''a'', 4091)], ''1 hour'')',
    'SELECT public.temptoken_unregister_scope(''s'')']) AS statement, pg_temp.state_of(statement) AS f;

-- NULL, by function (by INSERT it meets the columns' NOT NULL).
SELECT f.* FROM (VALUES
    ('NULL, ''{GET /a}'', ''1 hour'''), ('''s'', NULL, ''1 hour'''), ('''s'', ''{GET /a}'', NULL'),
    ('''s'', ''{GET /a}'', ''1 hour'', NULL')) AS v (arguments),
    pg_temp.state_of('SELECT public.temptoken_register_scope(' || arguments || ')') AS f;
\set VERBOSITY sqlstate
INSERT INTO temptoken.scopes VALUES ('s', NULL, '', '1 hour');
\set VERBOSITY default

-- UPDATE and the upsert of ON CONFLICT meet the same rules.
INSERT INTO temptoken.scopes VALUES ('s', '{GET /a}', '', '1 hour');
UPDATE temptoken.scopes SET max_ttl = '1 month' WHERE name = 's';
UPDATE temptoken.scopes SET allowed_routes = '{GET a}' WHERE name = 's';
INSERT INTO temptoken.scopes VALUES ('s', '{GET /a}', '', '1 hour') ON CONFLICT (name) DO UPDATE SET max_uses = 0;
SELECT public.temptoken_register_scope('s', '{GET a}', '1 hour', replace => true);

-- Metacharacters of regular expressions and LIKE are characters.
SELECT public.temptoken_register_scope('s', '{GET /a.*$,GET /_,GET /(x)+}', '1 hour', replace => true);
SELECT public.temptoken_mint('s', 'any', '1 minute') AS token \gset
SELECT path, (public.temptoken_try_validate(:'token', 'GET', path)).status
FROM unnest(ARRAY['/a.*$', '/abc', '/_', '/x', '/(x)+', '/xx']) AS path;

-- Routes that are valid, but that cannot be meant: a WARNING, from the function alone.
SELECT public.temptoken_register_scope('s', '{GET /flows/:id}', '1 hour', replace => true);
SELECT public.temptoken_register_scope('s', '{"GET /{id}","PUT /{id}/:other","GET|POST /{id}","* /{id}/*"}', '1 hour', '{id}', replace => true);
SELECT public.temptoken_register_scope('s', '{GET /flows/:idx}', '1 hour', ':id', replace => true);
SELECT public.temptoken_register_scope('s', '{GET /flows/..;/x}', '1 hour', replace => true);
SELECT public.temptoken_register_scope('s', array_fill('* /*'::text, ARRAY[1000]), '1 hour', replace => true);
INSERT INTO temptoken.scopes VALUES ('t', '{GET /flows/:id}', '', '1 hour');
-- And such that are meant: none.
SELECT public.temptoken_register_scope('s', '{GET /flows/:id,GET /flows/:id.pdf,GET /flows/:id/x:y}', '1 hour', ':id', replace => true);
-- Not registered, not warned.
SELECT public.temptoken_register_scope('s', '{GET /flows/:id}', '1 hour');

SELECT name, resource_id_is FROM public.temptoken_well_known_scopes();

-- A scope is kept in memory only where every change of it is announced: not by a trigger that misses deletions.
SELECT public.temptoken_mint('s', '1', '1 minute') AS token \gset
BEGIN;
DROP TRIGGER scopes_changed ON temptoken.scopes;
CREATE TRIGGER scopes_changed AFTER INSERT OR UPDATE ON temptoken.scopes
    FOR EACH ROW EXECUTE FUNCTION temptoken.scopes_changed();
ALTER TABLE temptoken.scopes ENABLE ALWAYS TRIGGER scopes_changed;
SELECT (public.temptoken_peek(:'token', 'GET', '/flows/1')).status;
DELETE FROM temptoken.scopes WHERE name = 's';
SELECT (public.temptoken_peek(:'token', 'GET', '/flows/1')).status;
ROLLBACK;

DELETE FROM temptoken.temp_tokens;
DELETE FROM temptoken.scopes;
