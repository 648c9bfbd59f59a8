-- Statistics: what there is, and what was answered.

CREATE FUNCTION temptoken.outcomes(scope text, OUT outcome text, OUT count bigint) RETURNS SETOF record
LANGUAGE c VOLATILE CALLED ON NULL INPUT
AS 'MODULE_PATHNAME', 'temptoken_outcomes';
COMMENT ON FUNCTION temptoken.outcomes(text) IS
'How often validation has answered what for tokens of this scope, in this database, since the server started; for NULL, where no scope was known. No rows where the library is not preloaded.';

CREATE FUNCTION @extschema@.temptoken_stats(
    OUT scope text,
    OUT live bigint,
    OUT expired bigint,
    OUT next_expiry timestamptz,
    OUT outcomes jsonb
) RETURNS SETOF record
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    WITH stored AS MATERIALIZED (
        SELECT t.scope,
               count(*) FILTER (WHERE t.expires_at > now.now) AS live,
               count(*) FILTER (WHERE t.expires_at <= now.now) AS expired,
               min(t.expires_at) FILTER (WHERE t.expires_at > now.now) AS next_expiry
        FROM temptoken.temp_tokens AS t, (SELECT clock_timestamp() AS now OFFSET 0) AS now
        GROUP BY t.scope
    )
    SELECT names.scope, coalesce(stored.live, 0), coalesce(stored.expired, 0), stored.next_expiry,
           (SELECT jsonb_object_agg(o.outcome, o.count) FROM temptoken.outcomes(names.scope) AS o)
    FROM (SELECT s.name AS scope FROM temptoken.scopes AS s
          UNION SELECT t.scope FROM stored AS t
          UNION ALL SELECT NULL) AS names
    LEFT JOIN stored ON stored.scope = names.scope
    ORDER BY names.scope
$$;
COMMENT ON FUNCTION @extschema@.temptoken_stats() IS
'A row for each scope that is registered or has tokens, and one with scope NULL for what was refused before a scope was known: tokens that live, tokens that have expired and are not yet swept, when the next expires, and how often validation has answered what since the server started (names of refusals, ok), NULL where the library is not preloaded. Reads the whole table.';
