-- temptoken_pre_request(), with the settings that PostgREST makes for each request: request.method, request.path and
-- request.headers, a JSON object of lower-case names, local to the transaction.

SELECT public.temptoken_register_scope('flows', ARRAY['GET /flows/{id}', 'POST /rpc/answer/{id}'], '1 hour', '{id}');
SELECT public.temptoken_mint('flows', 'f1', '1 hour') AS token, public.temptoken_mint('flows', 'f1', '1 hour', max_uses => 1) AS once \gset
UPDATE temptoken.temp_tokens SET uses_left = 0 WHERE uses_left = 1;

CREATE FUNCTION pg_temp.serve(method text, path text, headers text, OUT bound text, OUT state text, OUT message text, OUT detail text)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('request.method', method, true), set_config('request.path', path, true),
        set_config('request.headers', headers, true);
    BEGIN
        PERFORM public.temptoken_pre_request();
        bound := coalesce(public.temptoken_current_resource_id(), 'nobody');
        -- Undo the binding, for the next request.
        RAISE EXCEPTION USING ERRCODE = 'XXUND';
    EXCEPTION WHEN SQLSTATE 'XXUND' THEN
        NULL;
    WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
    END;
END $$;

-- Authorized, by either header.
SELECT s.* FROM pg_temp.serve('GET', '/flows/f1', json_build_object('host', 'h', 'x-temp-token', :'token')::text) AS s;
SELECT s.* FROM pg_temp.serve('GET', '/flows/f1', json_build_object('authorization', 'Bearer ' || :'token')::text) AS s;
SELECT s.* FROM pg_temp.serve('POST', '/rpc/answer/f1', json_build_object('authorization', 'bearer ' || :'token')::text) AS s;

-- Every refusal is the same 401.
SELECT DISTINCT s.* FROM (VALUES
        ('GET', '/flows/f2', :'token'), ('PUT', '/flows/f1', :'token'), ('GET', '/flows/f1', :'once'),
        ('GET', '/flows/f1', overlay(:'token' PLACING 'ffff' FROM 90)), ('GET', '/flows/f1', 'nonsense'), ('GET', '/flows/f1', ''),
        ('GET', NULL, :'token'), (NULL, '/flows/f1', :'token')) AS v (method, path, token),
    pg_temp.serve(method, path, json_build_object('x-temp-token', token)::text) AS s;
SELECT s.* FROM pg_temp.serve('GET', '/flows/f2', json_build_object('authorization', 'Bearer ' || :'token')::text) AS s;
-- The header of the setting goes before Authorization.
SELECT s.state FROM pg_temp.serve('GET', '/flows/f1',
    json_build_object('x-temp-token', 'nonsense', 'authorization', 'Bearer ' || :'token')::text) AS s;

-- Without a token of ours the request is left to the other rules: none at all, a JWT, another scheme, no headers.
SELECT s.bound, s.state FROM (VALUES
        ('{}'), ('{"authorization": "Bearer eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoid2ViX3VzZXIifQ.c2ln"}'),
        ('{"authorization": "Basic dHRfYTpi"}'), ('{"authorization": "Bearer"}'), (NULL), (''), ('[]'), ('no json'), (repeat('[', 900000)),
        ('{"x-temp-token": 1}')) AS v (headers),
    pg_temp.serve('GET', '/flows/f1', headers) AS s;
-- Unless told otherwise.
SET temptoken.require_token = on;
SELECT s.bound, s.state FROM pg_temp.serve('GET', '/flows/f1', '{}') AS s;
SELECT s.bound, s.state FROM pg_temp.serve('GET', '/flows/f1', NULL) AS s;
RESET temptoken.require_token;

-- Another header, also Authorization itself.
SET temptoken.token_header = 'X-Link';
SELECT s.bound, s.state FROM pg_temp.serve('GET', '/flows/f1', json_build_object('x-link', :'token')::text) AS s;
SELECT s.bound, s.state FROM pg_temp.serve('GET', '/flows/f1', json_build_object('x-temp-token', :'token')::text) AS s;
SET temptoken.token_header = 'Authorization';
SELECT s.bound, s.state FROM pg_temp.serve('GET', '/flows/f1', json_build_object('authorization', 'Bearer ' || :'token')::text) AS s;
-- A name that no header can have is refused.
SET temptoken.token_header = '';
SET temptoken.token_header = 'X Link';
SET temptoken.token_header = 'X-Link:';
SET temptoken.token_header = 'X-Lînk';
SHOW temptoken.token_header;
RESET temptoken.token_header;

-- As PostgREST does it: settings local to the transaction, then the call, then the query. The next request starts afresh.
BEGIN READ ONLY;
SELECT set_config('request.method', 'GET', true), set_config('request.path', '/flows/f1', true);
SELECT set_config('request.headers', json_build_object('x-temp-token', :'token')::text, true) IS NOT NULL AS set;
SELECT public.temptoken_pre_request();
SELECT public.temptoken_current_resource_id();
-- No shared cache may keep the answer.
SHOW response.headers;
COMMIT;
BEGIN READ ONLY;
SELECT public.temptoken_pre_request();
SELECT public.temptoken_current_resource_id();
SHOW response.headers;
COMMIT;
-- Headers that are set by now stay.
BEGIN READ ONLY;
SELECT set_config('request.method', 'GET', true), set_config('request.path', '/flows/f1', true),
       set_config('response.headers', '[{"Cache-Control": "private"}]', true);
SELECT set_config('request.headers', json_build_object('x-temp-token', :'token')::text, true) IS NOT NULL AS set;
SELECT public.temptoken_pre_request();
SHOW response.headers;
COMMIT;

-- An ordinary role cannot change the rules.
CREATE ROLE regress_web;
SET ROLE regress_web;
SET temptoken.require_token = off;
SET temptoken.token_header = 'x';
RESET ROLE;
DROP ROLE regress_web;

DELETE FROM temptoken.temp_tokens;
DELETE FROM temptoken.scopes;
