"use strict";
// Checks against a running daemon: what the page promises, and what becomes of whoever breaks its rules.

const path = require("node:path");
const ipc = require("./forebay_ipc.js");
const { MIB, Wrong, check, load, matches, meant, pieces, shown } = require("./vectors.js");

const NAME = "a client in JavaScript";
// What the page allows ten seconds for must not take much longer, nor much less.
const OWING_MIN_MS = 8_000;
const OWING_MAX_MS = 25_000;
const MANY = 1_000_000;
const CREDIT_LATER = 9;

const bytes = (hex) => Buffer.from(hex.replaceAll(" ", ""), "hex");
const nowMs = () => Number(process.hrtime.bigint() / 1_000_000n);

function expect(expected, got, what) {
  check(matches(expected, got), `${what}: ${shown(got)} instead of ${shown(expected)}`);
}

/** The error that a call fails with. */
async function failure(call) {
  let result;
  try {
    result = await call;
  } catch (error) {
    if (error instanceof ipc.Failed || error instanceof ipc.Refused) return error;
    throw error;
  }
  throw new Wrong(`there is a result: ${shown(result)}`);
}

/** Does something with a connection, and closes it. */
async function using(connection, act) {
  try {
    return await act(connection);
  } finally {
    connection.close();
  }
}

// The gateway.

async function checkNest(runDir, word, said) {
  await using(await ipc.Client.open(path.join(runDir, "ipc/nest.sock"), NAME), async (client) => {
    await checkCalls(client, said);
    await checkEvents(client, said);
  });
  checkLog(runDir, word, said);
  const control = path.join(runDir, "control.sock");
  await using(new ipc.ControlClient(control), (client) => checkControl(client, said));
  for (const vector of load("to_log.json")) {
    await play(path.join(runDir, "ipc/log.sock"), vector, endOfLog);
    said(vector.rule, `to the log: ${vector.name}`);
  }
  for (const vector of load("to_master.json")) {
    // The others would stop the daemon, or take their time.
    if (vector.outcome !== "accept" || Buffer.concat([...pieces(vector)]).includes("status")) {
      await play(control, vector, endOfControl);
      said(vector.rule, `to the master: ${vector.name}`);
    }
  }
  const status = await using(new ipc.ControlClient(control), (client) => client.call("status", {}));
  check(status.state === "serving", "the daemon does not serve any more");
  said(null, "after all of that the daemon serves");
}

async function checkCalls(client, said) {
  const { welcome } = client.conversation;
  expect({ frame_len_max: 16 * MIB, requests_max: 1024, subscriptions_max: 4096 }, welcome, "welcome");
  said(null, `welcomed by ${welcome.name}`);
  const thermostats = await client.call("list", {});
  check(thermostats.length > 0, "there is no thermostat");
  const [one] = thermostats;
  const fields = await client.call("get", { id: one.id });
  expect(one.fields.device_id, fields.device_id, "get");
  said(null, `list has ${thermostats.length} thermostats, and get one of them`);
  const unknown = await failure(client.call("get", { id: "nobody" }));
  expect(["failed", { unknown_thermostat: { id: "nobody" } }], [unknown.code, unknown.data], "an unknown one");
  said(null, `an unknown one: ${unknown.message}`);
  const late = await failure(client.call("list", {}, nowMs() - 1));
  expect("deadline_exceeded", late.code, "a deadline that has passed");
  await client.call("list", {}, nowMs() + 60_000);
  said(null, "a deadline that has passed is refused, and one that has not is kept");
  client.say([ipc.PING, 2n ** 63n]);
  expect([ipc.PONG, 2n ** 63n], await client.hear(), "a ping");
  said(null, "a ping is answered");
}

async function checkEvents(client, said) {
  const [{ id: one }] = await client.call("list", {});
  const setting = (degrees) => ["set", { id: one, fields: { target_temperature_c: degrees } }];
  const id = client.subscribe(MANY);
  const snapshot = await client.hear();
  expect([ipc.SNAPSHOT, id], snapshot, "a snapshot");
  check(snapshot[4].some((event) => "thermostat" in event), "the snapshot has no thermostat");
  const request = client.begin(...setting(20.5));
  let event = null;
  let isAnswered = false;
  while (event === null || !isAnswered) {
    const message = await client.hear();
    isAnswered ||= message[0] === ipc.RESPONSE && message[1] === request;
    const told = message[0] === ipc.EVENT ? message[3].thermostat : null;
    if (told?.id === one && told.fields.target_temperature_c === 20.5) event = message;
  }
  said(null, `a subscription: its snapshot, and event ${event[2]}, which a set has caused`);
  client.say([ipc.UNSUBSCRIBE, id]);
  const poor = client.subscribe(1);
  expect([ipc.SNAPSHOT, poor], await client.hear(), "a snapshot");
  await client.call(...setting(21));
  await client.call(...setting(19));
  client.say([ipc.CREDIT, poor, MANY]);
  const missed = await client.hear();
  expect([ipc.RESYNC, poor], missed, "with credit again");
  expect([ipc.SNAPSHOT, poor], await client.hear(), "after a resync");
  said(null, `without credit ${missed[2]} events were missed: a resync and a snapshot`);
}

function checkLog(runDir, word, said) {
  const log = new ipc.LogClient(path.join(runDir, "ipc/log.sock"), NAME);
  log.record(3, "clients", `said in JavaScript: ${word}`);
  log.record(2, "clients", `warned in JavaScript: ${word}`);
  log.close();
  said(null, "two records for the log");
}

async function checkControl(control, said) {
  const status = await control.call("status", {});
  expect({ state: "serving" }, status, "status");
  said(null, `status: ${status.state}`);
  const refused = await failure(control.call("restart", { helper: "nobody" }));
  expect(1, refused.exit, "restart of nobody");
  said(null, `refused: ${refused.message}`);
}

// The ends of connections: what must have been heard before each.

function endOfHelper(heard) {
  check(heard.length > 0, "closed without go-away");
  const [, said] = ipc.read(heard.at(-1), [ipc.GO_AWAY], "H2");
  expect("rule_broken", said.code, "go-away");
  check(said.reason !== "", "go-away has no reason");
}

function endOfLog(heard) {
  check(heard.length === 0, "the log has answered");
}

function endOfControl(heard) {
  check(heard.length > 0, "closed without a response with the id 0");
  const message = ipc.read(heard.at(-1), [ipc.RESPONSE], "M1", ipc.MASTER_SHAPES);
  expect([ipc.RESPONSE, 0, { exit: 64 }, null], message, "the last response");
  check(message[2].reason !== "", "the last response has no reason");
}

/** Says anything, and hears frames. */
class Wire extends ipc.Connection {
  constructor(socketPath) {
    super(socketPath);
    this.frames = new ipc.Frames();
  }

  /** The next frame's content; null at the end. */
  async hear() {
    for (;;) {
      const body = this.frames.next();
      if (body !== null) return body;
      const data = await this.receive();
      if (data === null) return null;
      this.frames.feed(data);
    }
  }

  async hearToTheEnd() {
    const heard = [];
    for (let body = await this.hear(); body !== null; body = await this.hear()) heard.push(body);
    return heard;
  }
}

function greeted(socketPath) {
  const wire = new Wire(socketPath);
  wire.send(ipc.write([ipc.HELLO, 1, { name: NAME }]));
  return wire;
}

/** Sends a vector to a running daemon, and checks what comes of it. */
async function play(socketPath, vector, end) {
  const isLog = socketPath.endsWith("log.sock");
  const isControl = socketPath.endsWith("control.sock");
  const wire = vector.after === "hello" ? greeted(socketPath) : new Wire(socketPath);
  try {
    if (vector.after === "hello" && !isLog) ipc.read(await wire.hear(), [ipc.WELCOME], "H1");
    wire.send(Buffer.concat([...pieces(vector)]));
    if (vector.outcome === "close") {
      end(await wire.hearToTheEnd());
    } else if (!isLog) {
      // Whoever takes it, takes this too.
      wire.send(ipc.write(isControl ? [ipc.REQUEST, 99, "status", [{}]] : [ipc.PING, 99]));
      await expectReplies(wire, vector, isControl);
    }
  } catch (cause) {
    throw new Wrong(`${vector.name}: ${cause.message}`, { cause });
  } finally {
    wire.close();
  }
}

/** All that is expected comes, in whatever order, and nothing else where something is expected. */
async function expectReplies(wire, vector, isControl) {
  const last = isControl ? [ipc.RESPONSE, 99] : [ipc.PONG, 99];
  const expected = [...meant(vector.reply ?? []), last];
  const shapes = isControl ? ipc.MASTER_SHAPES : ipc.SHAPES;
  const kinds = [...ipc.Conversation.FIRST, ...ipc.Conversation.THEN];
  while (expected.length > 0) {
    const body = await wire.hear();
    check(body !== null, `closed, and ${shown(expected)} has not come`);
    const message = ipc.read(body, kinds, "H2", shapes);
    const found = expected.findIndex((one) => matches(one, message));
    check(found >= 0 || !vector.reply, `${shown(message)} instead of ${shown(expected)}`);
    if (found >= 0) expected.splice(found, 1);
  }
}

// The tests' application.

async function checkKeeper(runDir, said) {
  const socketPath = path.join(runDir, "ipc/keeper.sock");
  await using(await ipc.Client.open(socketPath, NAME), async (client) => {
    await checkCredit(client, said);
    await checkCancel(client, said);
  });
  for (const file of ["frames.json", "to_helper.json"]) {
    for (const vector of load(file)) {
      await play(socketPath, vector, endOfHelper);
      said(vector.rule, `to a helper: ${vector.name}`);
    }
  }
  await checkTooMuchUnread(runDir, said);
  await checkOwing(runDir, said);
  await using(await ipc.Client.open(socketPath, NAME), async (client) => {
    check((await client.call("again", { number: 4, ms: 0 })) === 4, "the helper answers something else");
  });
  said(null, "after all of that the helper answers");
}

async function checkCredit(client, said) {
  const id = client.subscribe(2);
  const publish = (events) => client.begin("publish", { events, len: 1 });
  const [, , epoch, number] = await client.hear();
  let request = publish(5);
  expect([ipc.EVENT, id, number + 1], await client.hear(), "an event, before the answer");
  expect([ipc.RESPONSE, request], await client.hear(), "nothing more without credit");
  client.say([ipc.CREDIT, id, 2]);
  expect([ipc.RESYNC, id, 4], await client.hear(), "the count of the missed");
  expect([ipc.SNAPSHOT, id, epoch, number + 5], await client.hear(), "a snapshot after it");
  request = publish(1);
  expect([ipc.EVENT, id, number + 6], await client.hear(), "the next event");
  expect([ipc.RESPONSE, request], await client.hear(), "its answer");
  client.say([ipc.CREDIT, id, CREDIT_LATER]);
  request = client.begin("again", { number: 1, ms: 0 });
  expect([ipc.RESPONSE, request], await client.hear(), "nothing was missed");
  client.say([ipc.UNSUBSCRIBE, id]);
  request = publish(1);
  expect([ipc.RESPONSE, request], await client.hear(), "nothing more comes");
  said(null, "credit: so many messages come, then a resync and a snapshot; after unsubscribe nothing");
}

async function checkCancel(client, said) {
  const request = client.begin("slow", { number: 1, ms: 60_000 });
  client.say([ipc.CANCEL, request]);
  const cancelled = await failure(client.outcome(request));
  expect("cancelled", cancelled.code, "a cancelled request");
  said(null, `a request is given up: ${cancelled.message}`);
}

/** One that asks for so many answers of a million bytes, and reads none of them. */
function lazy(socketPath, answers, ms = 0) {
  const wire = greeted(socketPath);
  wire.socket.pause();
  for (let id = 0; id < answers; id += 1) wire.send(ipc.write([ipc.REQUEST, id, "long", [{ len: MANY, ms }]]));
  return wire;
}

async function checkTooMuchUnread(runDir, said) {
  // They come when all are asked for: a helper that has too much to write does not read on.
  const wire = lazy(path.join(runDir, "ipc/keeper.sock"), 140, 500);
  // Not a byte is read before the end: it is the helper that knows.
  await waitForFewer(runDir, 1, OWING_MIN_MS);
  wire.close();
  said("C11", "whoever is owed more than 128 MiB that it does not read is closed at once");
}

async function connections(runDir) {
  const control = new ipc.ControlClient(path.join(runDir, "control.sock"));
  const { helpers } = await using(control, (client) => client.call("status", {}));
  return helpers.find((helper) => helper.name === "keeper").connections;
}

/** Waits until the helper has at most so many connections: the worker's is one. */
async function waitForFewer(runDir, most, patienceMs) {
  const deadline = nowMs() + patienceMs;
  while ((await connections(runDir)) > most) {
    check(nowMs() < deadline, `after ${patienceMs} ms the helper has more than ${most} connections`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Whoever owes something for ten seconds is closed: all of them at the same time. */
async function checkOwing(runDir, said) {
  const socketPath = path.join(runDir, "ipc/keeper.sock");
  const began = nowMs();
  const unread = lazy(socketPath, 8);
  const silent = new Wire(socketPath);
  const half = greeted(socketPath);
  const control = new Wire(path.join(runDir, "control.sock"));
  const idle = greeted(socketPath);
  half.send(bytes("00 00 00 10 94 00"));
  const patient = new Wire(path.join(runDir, "ipc/log.sock"));
  patient.send(bytes("00 00 00 10 93 03"));
  for (const [rule, wire, end, what] of [
    ["C2", silent, endOfHelper, "no hello"],
    ["C9", half, endOfHelper, "half a frame"],
    ["M2", control, endOfControl, "silence towards the master"],
  ]) {
    try {
      end(await wire.hearToTheEnd());
    } catch (cause) {
      throw new Wrong(`${rule}, ${what}: ${cause.message}`, { cause });
    }
    const took = nowMs() - began;
    check(took > OWING_MIN_MS && took < OWING_MAX_MS, `${rule}, ${what}: closed after ${took} ms`);
    said(rule, `${what}: closed after ten seconds`);
  }
  // The worker's, the idle one.
  await waitForFewer(runDir, 2, OWING_MAX_MS);
  unread.close();
  said("C10", "what was sent is not read: closed after ten seconds");
  ipc.read(await idle.hear(), [ipc.WELCOME], "H1");
  idle.send(ipc.write([ipc.PING, 5]));
  expect([ipc.PONG, 5], ipc.read(await idle.hear(), [ipc.PONG], "H2"), "an idle one");
  check(patient.isOpen, "the log has closed somebody who is silent");
  said(null, "who owes nothing may be silent, and to the log everybody");
  [silent, half, control, idle, patient].forEach((wire) => wire.close());
}

// Somebody who may not.

async function checkStranger(runDir, said) {
  const helper = await new Wire(path.join(runDir, "ipc/keeper.sock")).hearToTheEnd();
  check(helper.length > 0, "closed without go-away");
  expect([ipc.GO_AWAY, { code: "not_allowed" }], ipc.read(helper.at(-1), [ipc.GO_AWAY], "H1"), "a helper");
  const log = await new Wire(path.join(runDir, "ipc/log.sock")).hearToTheEnd();
  check(log.length === 0, "the log has answered");
  said("U1", "another user is turned away by a helper, with the reason, and by the log");
  const master = await new Wire(path.join(runDir, "control.sock")).hearToTheEnd();
  check(master.length > 0, "closed without a response");
  const refusal = ipc.read(master.at(-1), [ipc.RESPONSE], "M1", ipc.MASTER_SHAPES);
  expect([ipc.RESPONSE, 0, { exit: 77 }, null], refusal, "the master");
  said("U2", `and by the master: ${refusal[2].reason}`);
}

module.exports = { checkKeeper, checkNest, checkStranger };
