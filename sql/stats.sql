-- Statistics: what there is, and what was answered.

CREATE FUNCTION @extschema@.temptoken_stats(
    OUT scope text,
    OUT live bigint,
    OUT expired bigint,
    OUT next_expiry timestamptz,
    OUT outcomes jsonb
) RETURNS SETOF record
LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.temptoken_stats() IS
'A row for each scope that is registered or has tokens, and one with scope NULL for what was refused before a scope was known: tokens that live (used up or not), tokens that have expired and are not yet swept, when the next expires, and what was counted since the server started or crashed: how often validation has answered what (ok, names of refusals), tokens minted, uses spent; NULL where the library is not preloaded, and of scopes beyond about 250. A transaction that is rolled back is counted too. Reads the whole table.';
