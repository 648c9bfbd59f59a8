-- The competitors of validation: the same tokens in the usual table, and the same rules in PL/pgSQL, as one SQL function,
-- and as plain SQL. They are what a good engineer would write: one statement, by an index, plan kept by the session,
-- nothing that is not needed. They leave out what the extension does besides: constant-time comparison, counting, rights
-- of the owner, the check of stored resource ids, immunity to search_path.
INSERT INTO bench.usual (token_hash, scope, resource_id, created_at, expires_at)
SELECT sha256(convert_to(m.token, 'UTF8')), 'files', m.resource_id, now(), now() + interval '1 day'
FROM bench.minted AS m;
-- Expired ones too, for the refusal.
INSERT INTO bench.usual (token_hash, scope, resource_id, created_at, expires_at)
SELECT sha256(convert_to(e.token, 'UTF8')), 'files', e.resource_id, now(), now()
FROM bench.expired AS e;

CREATE TABLE bench.scopes AS SELECT * FROM temptoken.scopes;
ALTER TABLE bench.scopes ADD PRIMARY KEY (name);

CREATE TYPE bench.verdict AS (
    status text, id uuid, scope text, resource_id text, expires_at timestamptz, metadata jsonb);

CREATE FUNCTION bench.validate_in_plpgsql(p_token text, p_method text, p_path text) RETURNS bench.verdict
LANGUAGE plpgsql AS $$
DECLARE
    known record;
    route text;
    verdict bench.verdict;
BEGIN
    SELECT t.id, t.scope, t.resource_id, t.expires_at, t.uses_left, t.metadata,
        s.allowed_routes, s.resource_id_in_path
    INTO known
    FROM bench.usual AS t LEFT JOIN bench.scopes AS s ON s.name = t.scope
    WHERE t.token_hash = sha256(convert_to(p_token, 'UTF8'));
    IF NOT FOUND THEN
        verdict.status := 'token_not_found';
    ELSIF known.expires_at <= clock_timestamp() THEN
        verdict.status := 'token_expired';
    ELSIF known.allowed_routes IS NULL THEN
        verdict.status := 'scope_unknown';
    ELSE
        verdict.status := 'route_not_allowed';
        FOREACH route IN ARRAY known.allowed_routes LOOP
            IF replace(route, known.resource_id_in_path, known.resource_id) = upper(p_method) || ' ' || p_path THEN
                IF known.uses_left < 1 THEN
                    verdict.status := 'token_used_up';
                ELSE
                    verdict := ROW('ok', known.id, known.scope, known.resource_id, known.expires_at, known.metadata);
                END IF;
                EXIT;
            END IF;
        END LOOP;
    END IF;
    RETURN verdict;
END $$;

-- No row, which is NULL, for a token that is not found.
CREATE FUNCTION bench.validate_in_sql(p_token text, p_method text, p_path text) RETURNS bench.verdict
LANGUAGE sql AS $$
    SELECT CASE
            WHEN t.expires_at <= clock_timestamp() THEN 'token_expired'
            WHEN s.name IS NULL THEN 'scope_unknown'
            WHEN NOT EXISTS (
                SELECT FROM unnest(s.allowed_routes) AS route
                WHERE replace(route, s.resource_id_in_path, t.resource_id) = upper(p_method) || ' ' || p_path
            ) THEN 'route_not_allowed'
            WHEN t.uses_left < 1 THEN 'token_used_up'
            ELSE 'ok'
        END,
        t.id, t.scope, t.resource_id, t.expires_at, t.metadata
    FROM bench.usual AS t LEFT JOIN bench.scopes AS s ON s.name = t.scope
    WHERE t.token_hash = sha256(convert_to(p_token, 'UTF8'))
$$;

-- No rules at all: the bare lookup, but begun anew at every call, as a validation is.
CREATE FUNCTION bench.look_up(p_id uuid) RETURNS text LANGUAGE sql VOLATILE AS $$
    SELECT resource_id FROM temptoken.temp_tokens WHERE id = p_id
$$;
