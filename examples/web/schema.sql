-- What the example application needs of the database. A superuser runs this once, in a database of its own.

CREATE SCHEMA auth;
CREATE EXTENSION temptoken SCHEMA auth;

-- An agent asks a person for access. The answer is NULL until there is one.
CREATE TABLE flows (
    id text PRIMARY KEY,
    agent text NOT NULL,
    wish text NOT NULL,
    answer text CHECK (answer IN ('approved', 'denied'))
);

-- When a flow is answered or gone, its links end in the same transaction.
CREATE TRIGGER answered AFTER UPDATE ON flows
    FOR EACH ROW WHEN (NEW.answer IS NOT NULL)
    EXECUTE FUNCTION auth.temptoken_delete_by_resource_id_trigger('oauth2_consent', 'id');
CREATE TRIGGER gone AFTER DELETE ON flows
    FOR EACH ROW EXECUTE FUNCTION auth.temptoken_delete_by_resource_id_trigger('oauth2_consent', 'id');

CREATE TABLE users (email text PRIMARY KEY, name text NOT NULL);

-- When a user is gone or has another address, the links to sign in end too.
CREATE TRIGGER other_address AFTER UPDATE ON users
    FOR EACH ROW WHEN (OLD.email <> NEW.email)
    EXECUTE FUNCTION auth.temptoken_delete_by_resource_id_trigger('magic_link', 'email');
CREATE TRIGGER gone AFTER DELETE ON users
    FOR EACH ROW EXECUTE FUNCTION auth.temptoken_delete_by_resource_id_trigger('magic_link', 'email');

-- Of a session's cookie only a hash is kept, as of a token.
CREATE TABLE sessions (
    cookie_hash bytea PRIMARY KEY,
    email text NOT NULL REFERENCES users ON UPDATE CASCADE ON DELETE CASCADE,
    expires_at timestamptz NOT NULL
);

-- Looking is free, as often as one likes; an answer is one PUT.
SELECT auth.temptoken_register_scope('oauth2_consent',
    ARRAY['GET /api/flows/{id}', 'PUT /api/flows/{id}'],
    max_ttl => '10 minutes', resource_id_in_path => '{id}', max_uses => 1, spending_methods => '{PUT}');

-- No placeholder: the token says who signs in. A mail scanner that opens the page, and whatever it asks by GET, spends nothing.
SELECT auth.temptoken_register_scope('magic_link',
    ARRAY['GET /api/sign-in', 'POST /api/sign-in'],
    max_ttl => '15 minutes', max_uses => 1, spending_methods => '{POST}');

-- The application's role: it may mint and validate, and has no right on the tables of tokens.
CREATE ROLE web LOGIN;
SELECT auth.temptoken_grant('web', 'issue');
SELECT auth.temptoken_grant('web', 'validate');
GRANT SELECT, INSERT, UPDATE ON flows TO web;
-- FOR SHARE needs the right to change some column.
GRANT SELECT, UPDATE (name) ON users TO web;
GRANT SELECT, INSERT, DELETE ON sessions TO web;

INSERT INTO users VALUES ('ann@example.com', 'Ann'), ('ben@example.com', 'Ben');
