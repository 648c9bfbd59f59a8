-- Statistics of what is stored. What was answered is counted where the library is preloaded; here it is not.

SELECT public.temptoken_register_scope('files', ARRAY['GET /files/{id}'], '1 hour', '{id}');
SELECT public.temptoken_register_scope('empty', ARRAY['GET /empty'], '1 hour');
SELECT public.temptoken_register_scope('gone', ARRAY['GET /gone'], '1 hour');
SELECT count(*) FROM public.temptoken_mint_many('files', '{a,b,c}', '1 hour');
SELECT count(*) FROM public.temptoken_mint_many('gone', '{a}', '1 hour');
SELECT public.temptoken_unregister_scope('gone');
UPDATE temptoken.temp_tokens SET expires_at = now() - interval '1 second' WHERE resource_id = 'b';
SELECT scope, live, expired, next_expiry BETWEEN clock_timestamp() + '59 minutes' AND clock_timestamp() + '1 hour' AS next_expiry, outcomes
FROM public.temptoken_stats();

DELETE FROM temptoken.temp_tokens;
DELETE FROM temptoken.scopes;
