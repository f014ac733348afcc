// Drives a headless Chromium over its pipe. Each line of standard input is a JSON object: `page`, and `url` to go to
// or `script` to run there. What pages say by `console.log` goes to standard output, a line each: PAGE: TEXT.
'use strict';
const { spawn } = require('node:child_process');
const readline = require('node:readline');

const [profile] = process.argv.slice(2);
const chromium = spawn('chromium', [
  '--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run', '--disable-extensions',
  '--disable-background-networking', '--disable-component-update', '--disable-sync', '--no-proxy-server',
  `--user-data-dir=${profile}`, '--remote-debugging-pipe', 'about:blank',
], { stdio: ['ignore', 'ignore', 'inherit', 'pipe', 'pipe'] });
chromium.on('exit', () => process.exit(0));
const [, , , orders, words] = chromium.stdio;

let number = 0;
const waiting = new Map();
const call = (method, params = {}, sessionId = undefined) => new Promise((resolve, reject) => {
  number += 1;
  waiting.set(number, { resolve, reject });
  orders.write(`${JSON.stringify({ id: number, method, params, sessionId })}\0`);
});

const pages = new Map();
const names = new Map();
const hear = (message) => {
  const waits = waiting.get(message.id);
  if (waits) {
    waiting.delete(message.id);
    if (message.error) waits.reject(new Error(message.error.message)); else waits.resolve(message.result);
  } else if (message.method === 'Runtime.consoleAPICalled') {
    const text = message.params.args.map((arg) => arg.value ?? arg.description).join(' ');
    console.log(`${names.get(message.sessionId)}: ${text}`);
  } else if (message.method === 'Page.loadEventFired') {
    console.log(`${names.get(message.sessionId)}: loaded`);
  }
};

let heard = Buffer.alloc(0);
words.on('data', (piece) => {
  heard = Buffer.concat([heard, piece]);
  for (let end = heard.indexOf(0); end >= 0; end = heard.indexOf(0)) {
    hear(JSON.parse(heard.subarray(0, end).toString()));
    heard = heard.subarray(end + 1);
  }
});

const pageOf = async (name) => {
  if (!pages.has(name)) {
    const { targetId } = await call('Target.createTarget', { url: 'about:blank' });
    const { sessionId } = await call('Target.attachToTarget', { targetId, flatten: true });
    pages.set(name, sessionId);
    names.set(sessionId, name);
    await call('Runtime.enable', {}, sessionId);
    await call('Page.enable', {}, sessionId);
  }
  return pages.get(name);
};

const obey = async ({ page, url, script }) => {
  const sessionId = await pageOf(page);
  if (url) await call('Page.navigate', { url }, sessionId);
  if (!script) return;
  const { exceptionDetails } = await call('Runtime.evaluate', { expression: script }, sessionId);
  if (exceptionDetails) console.log(`${page}: ${exceptionDetails.exception?.description ?? exceptionDetails.text}`);
};

const main = async () => {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    await obey(JSON.parse(line));
  }
  await call('Browser.close');
};

main().catch((error) => {
  console.error(error);
  chromium.kill('SIGKILL');
  process.exit(1);
});
