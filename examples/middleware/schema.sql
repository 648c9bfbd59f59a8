-- What each server here needs of the database. A superuser runs this once, in a database of its own.

CREATE SCHEMA auth;
CREATE EXTENSION temptoken SCHEMA auth;

CREATE TABLE flows (id text PRIMARY KEY, approved boolean NOT NULL DEFAULT false);
INSERT INTO flows VALUES ('f1'), ('f2'), ('f3');

SELECT auth.temptoken_register_scope('files', ARRAY['GET /files/{id}'], '1 hour', '{id}');
SELECT auth.temptoken_register_scope('flows', ARRAY['POST /flows/{id}/approve'], '1 hour', '{id}', max_uses => 1);

-- The application's role. Give it a password: \password app
CREATE ROLE app LOGIN;
SELECT auth.temptoken_grant('app', 'issue');
SELECT auth.temptoken_grant('app', 'validate');
GRANT SELECT, UPDATE ON flows TO app;
