// A whole enjin client with nothing but Node's own modules: sign a wish, post it, believe the answer. The format: docs/wire.md.
//   node client.mjs HOME KEYS RING command.compartment.create '{"name":"blue"}' [REASON]
import { createHash, createPrivateKey, createPublicKey, randomBytes, sign, verify } from 'node:crypto';
import { readFileSync, readdirSync } from 'node:fs';

// BLAKE2b with key and personalisation (RFC 7693), which Node's own does not offer.
const MASK = (1n << 64n) - 1n;
const words = (bytes) => Array.from({ length: bytes.length / 8 }, (_, at) => bytes.readBigUInt64LE(at * 8));
const IV = ['6a09e667f3bcc908', 'bb67ae8584caa73b', '3c6ef372fe94f82b', 'a54ff53a5f1d36f1', '510e527fade682d1', '9b05688c2b3e6c1f',
  '1f83d9abfb41bd6b', '5be0cd19137e2179'].map((hex) => BigInt('0x' + hex));
const SIGMA = ['0123456789abcdef', 'ea489fd61c02b753', 'b8c052fdae367194', '7931dcbe265a40f8', '905724afe1bc683d', '2c6a0b834d75fe19',
  'c51fed4a0763928b', 'db7ec13950f4862a', '6fe9b308c2d714a5', 'a2847615fb9e3cd0'].map((row) => [...row].map((one) => parseInt(one, 16)));
function blake2b(data, person, key = Buffer.alloc(0)) {
  const block = Buffer.alloc(64);
  block.set([32, key.length, 1, 1]);
  block.write(person, 48);
  const h = words(block).map((word, at) => word ^ IV[at]);
  const first = Buffer.concat([key, Buffer.alloc(key.length ? 128 - key.length : 0)]);
  const all = Buffer.concat([first, data]);
  for (let at = 0; at === 0 || at < all.length; at += 128) {
    const last = at + 128 >= all.length;
    const m = words(Buffer.concat([all.subarray(at, at + 128), Buffer.alloc(128)]).subarray(0, 128));
    const v = [...h, ...IV];
    v[12] ^= BigInt(last ? all.length : at + 128);
    if (last) v[14] ^= MASK;
    const turn = (x, bits) => ((x >> bits) | (x << (64n - bits))) & MASK;
    const mix = (a, b, c, d, x, y) => {
      v[a] = (v[a] + v[b] + x) & MASK; v[d] = turn(v[d] ^ v[a], 32n); v[c] = (v[c] + v[d]) & MASK; v[b] = turn(v[b] ^ v[c], 24n);
      v[a] = (v[a] + v[b] + y) & MASK; v[d] = turn(v[d] ^ v[a], 16n); v[c] = (v[c] + v[d]) & MASK; v[b] = turn(v[b] ^ v[c], 63n);
    };
    for (let round = 0; round < 12; round++) {
      const s = SIGMA[round % 10];
      [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15], [0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14]]
        .forEach((four, at) => mix(...four, m[s[2 * at]], m[s[2 * at + 1]]));
    }
    h.forEach((_, at) => { h[at] ^= v[at] ^ v[at + 8]; });
  }
  const out = Buffer.alloc(64);
  h.forEach((word, at) => out.writeBigUInt64LE(word, at * 8));
  return out.subarray(0, 32);
}

// Frames: docs/wire.md 1 and 2.
const PREFIX = 'application/vnd.enjin.';
const pae = (type, body) => Buffer.concat([Buffer.from(`DSSEv1 ${type.length} ${type} ${body.length} `), body]);
const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex');
const digest = (frame) => sha256(pae(frame.type, frame.body));
const keyId = (raw) => blake2b(raw, 'enjin-key').toString('hex');
const publicKey = (raw) => createPublicKey({ key: Buffer.concat([Buffer.from('302a300506032b6570032100', 'hex'), raw]), format: 'der', type: 'spki' });
const signedBy = (frame, hex) => frame.signatures.some(({ id, signature }) => id === keyId(Buffer.from(hex, 'hex'))
  && verify(null, pae(frame.type, frame.body), publicKey(Buffer.from(hex, 'hex')), signature));
function openFrame(bytes) {
  const typeEnd = 6 + bytes.readUInt16BE(4), bodyEnd = typeEnd + 4 + bytes.readUInt32BE(typeEnd);
  const signatures = Array.from({ length: bytes[bodyEnd] }, (_, at) => bytes.subarray(bodyEnd + 1 + 96 * at, bodyEnd + 97 + 96 * at))
    .map((one) => ({ id: one.subarray(0, 32).toString('hex'), signature: one.subarray(32) }));
  return { type: bytes.toString('latin1', 6, typeEnd), body: bytes.subarray(typeEnd + 4, bodyEnd), signatures };
}
const canonical = (value) => JSON.stringify(value, (_, one) => (one && typeof one === 'object' && !Array.isArray(one)
  ? Object.fromEntries(Object.entries(one).sort(([a], [b]) => (a < b ? -1 : 1))) : one));

// Who we are, and whom we believe: docs/wire.md 4 and 5.
const [home, keys, ring, kind, body, reason] = process.argv.slice(2);
const text = (value) => Buffer.from(value, 'base64url');
const cloud = JSON.parse(readFileSync(`${home}/run/cloud.json`));
const own = JSON.parse(readFileSync(`${keys}/${readdirSync(keys).find((name) => name.startsWith(cloud.cloud))}`));
const { decider, api, domain } = cloud.domains.find((one) => one.ring === Number(ring));
const root = JSON.parse(openFrame(text(own.root)).body);
const grants = new Map();
for (const frame of cloud.grants.map((one) => openFrame(text(one)))) {
  const grant = JSON.parse(frame.body), parent = grants.get(grant.parent);
  const believed = grant.parent ? parent && signedBy(frame, parent.keys.issue)
    : root.keys.filter((one) => signedBy(frame, one)).length >= root.threshold;
  const until = grant.subject === domain ? Math.max(grant.expiry, grant.not_before + (grant.autonomy ?? 0)) : grant.expiry;
  if (believed && until > Date.now() * 1000) grants.set(digest(frame), grant);
}
const seed = blake2b(Buffer.from(`enjin/v1/${own.cloud}/message/1`), 'enjin-subkey', text(own.seed));
const secret = createPrivateKey({ key: Buffer.concat([Buffer.from('302e020100300506032b657004220420', 'hex'), seed]), format: 'der', type: 'pkcs8' });
const raw = createPublicKey(secret).export({ format: 'der', type: 'spki' }).subarray(12);

// The message: docs/wire.md 3. A request id is a UUIDv7.
const now = Date.now(), hex = now.toString(16).padStart(12, '0') + '7' + randomBytes(9).toString('hex').slice(0, 3) + '8' + randomBytes(8).toString('hex').slice(0, 15);
const rid = hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
const statement = { cloud: own.cloud, channel: ring === '0' ? 'ring0' : `ring${ring}.${domain}`, kind, iss: own.account, aud: decider, rid,
  time: now * 1000, ttl_ms: 30000, grant: digest(openFrame(text(own.grant))), body: JSON.parse(body), ...(reason ? { reason } : {}) };
const type = PREFIX + 'msg.v1+json', payload = Buffer.from(canonical(statement)), sizes = Buffer.alloc(6);
sizes.writeUInt16BE(type.length, 0);
sizes.writeUInt32BE(payload.length, 2);
const request = Buffer.concat([Buffer.from('ENJ1'), sizes.subarray(0, 2), Buffer.from(type), sizes.subarray(2), payload, Buffer.from([1]),
  Buffer.from(keyId(raw), 'hex'), sign(null, pae(type, payload), secret)]);
const media = PREFIX + 'envelope', answer = await fetch(`${api}/v1/envelope`, { method: 'POST', body: request, headers: { 'Content-Type': media } });
if (answer.headers.get('content-type') !== media) throw new Error(`refused: ${await answer.text()}`);
const frame = openFrame(Buffer.from(await answer.arrayBuffer())), said = JSON.parse(frame.body), granted = grants.get(said.grant);
const honest = granted && granted.subject === decider && said.iss === decider && signedBy(frame, granted.keys.message)
  && said.aud === own.account && said.rid === rid && said.re === sha256(pae(type, payload));
if (!honest) throw new Error('the answer is not from whom we asked');
console.log(JSON.stringify(said.body));
process.exitCode = said.body.ok ? 0 : 1;
