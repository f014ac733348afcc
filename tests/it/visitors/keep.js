// Asks a server without a pause over connections that are kept, until standard input ends: by the agent of `http`, by
// `fetch`, and over HTTP/2. Nothing is asked twice. Says when each has been answered, and in the end what was answered
// and what was lost, as JSON.
'use strict';
const http = require('node:http');
const http2 = require('node:http2');

const url = process.argv[2];
const body = 'what is sent comes back';
let ends = false;
process.stdin.on('end', () => { ends = true; }).resume();

const agent = new http.Agent({ keepAlive: true, maxSockets: 4 });

const byAgent = () => new Promise((resolve, reject) => {
  const request = http.request(url, { method: 'POST', agent }, (answer) => {
    let text = '';
    answer.setEncoding('utf8').on('data', (piece) => { text += piece; });
    answer.on('end', () => resolve({ status: answer.statusCode, text, again: request.reusedSocket }));
    answer.on('error', reject);
  });
  request.on('error', reject);
  request.end(body);
});

const byFetch = async () => {
  const answer = await fetch(url, { method: 'POST', body });
  return { status: answer.status, text: await answer.text() };
};

// A connection that has said GOAWAY answers what it has been asked before; for more there is another one. What it has
// refused it has not read, and may be asked again: RFC 9113 8.7.
let session = null;
const current = () => {
  if (session === null) {
    const fresh = http2.connect(url);
    const leave = () => { if (session === fresh) session = null; };
    fresh.on('goaway', leave).on('close', leave).on('error', leave);
    session = fresh;
  }
  return session;
};

const askHttp2 = () => new Promise((resolve, reject) => {
  const again = session !== null;
  const stream = current().request({ ':method': 'POST', ':path': new URL(url).pathname });
  let text = '';
  let status = 0;
  let fault = null;
  stream.on('response', (headers) => { status = headers[':status']; });
  stream.setEncoding('utf8').on('data', (piece) => { text += piece; }).on('error', (error) => { fault = error; });
  stream.on('close', () => {
    if (stream.rstCode === http2.constants.NGHTTP2_REFUSED_STREAM) resolve(null);
    else if (fault !== null) reject(fault);
    else resolve({ status, text, again });
  });
  stream.end(body);
});

const byHttp2 = async () => {
  for (;;) {
    const answer = await askHttp2();
    if (answer !== null) return answer;
    session = null;
  }
};

const said = {};
let begun = false;
const begin = () => {
  if (begun || Object.values(said).some((tally) => tally.answered === 0)) return;
  begun = true;
  console.log('begun');
};

const client = async (ask, tally) => {
  while (!ends) {
    try {
      const { status, text, again } = await ask();
      if (status !== 200 || text !== body) throw new Error(`status ${status}: ${text}`);
      tally.answered += 1;
      if (again) tally.again += 1;
      begin();
    } catch (error) {
      tally.lost.push(String(error.cause ?? error));
    }
  }
};

const main = async () => {
  const all = Object.entries({ agent: byAgent, fetch: byFetch, http2: byHttp2 }).flatMap(([name, ask]) => {
    said[name] = { answered: 0, again: 0, lost: [] };
    return [1, 2, 3].map(() => client(ask, said[name]));
  });
  await Promise.all(all);
  agent.destroy();
  session?.close();
  console.log(JSON.stringify(said));
  process.exit(0);
};

main();
