// An OpenID provider on loopback (npm: oidc-provider, which is certified by the OpenID Foundation): node provider.mjs DIRECTORY
// prints its issuer. Programs sign in by client credentials; DIRECTORY has the package.
import http from 'node:http';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const require = createRequire(process.argv[2] + '/');
const { Provider } = await import(pathToFileURL(require.resolve('oidc-provider')).href);

const groups = { alice: ['staff'], bob: ['staff'], vera: ['auditors'], root: ['admins'], mallory: [] };
const formats = { 'urn:tes': 'jwt', 'urn:tes-opaque': 'opaque', 'urn:other': 'jwt' };
const client = (id) => ({ client_id: id, client_secret: `${id}-secret`, grant_types: ['client_credentials'], redirect_uris: [], response_types: [] });

const server = http.createServer();
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [...Object.keys(groups), 'tes-server'].map(client),
    extraTokenClaims: (_, token) => ({ groups: groups[token.clientId] }),
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      introspection: { enabled: true, allowedPolicy: () => true },
      revocation: { enabled: true },
      resourceIndicators: { enabled: true, getResourceServerInfo: (_, resource) => ({ scope: 'tes', accessTokenFormat: formats[resource], accessTokenTTL: 600 }) },
    },
  });
  server.on('request', provider.callback());
  console.log(issuer);
});
