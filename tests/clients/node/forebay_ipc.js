"use strict";
// A client of forebay's Unix sockets, as ipc-protocol.md has them, on the package `@msgpack/msgpack`.
//
// From the bottom up: `Frames` cuts a stream into frames, `read` and `write` are the messages in them,
// `Conversation` is a client's side of a connection to a helper without a socket, `Connection` has the
// socket, and `Client`, `LogClient` and `ControlClient` are what a program uses.
//
// Whole numbers above 2^53 are BigInt, all others Number. The package does not tell 1.0 from 1, nor
// whether a string is UTF-8.

const net = require("node:net");
const { decode, encode } = require("@msgpack/msgpack");

const KINDS = {
  REQUEST: 0, RESPONSE: 1, NOTIFICATION: 2, HELLO: 3, WELCOME: 4, PING: 5, PONG: 6, CANCEL: 7, CREDIT: 8,
  GO_AWAY: 9, SUBSCRIBE: 10, SNAPSHOT: 11, EVENT: 12, RESYNC: 13, UNSUBSCRIBE: 14, END: 15, LOG: 16,
};
const VERSION = 1;
const FRAME_LEN_MAX = 64 * 1024 * 1024;
const DEPTH_MAX = 128;
const CODES = [
  "failed", "panicked", "no_method", "bad_params", "deadline_exceeded", "cancelled", "overloaded", "too_long",
  "no_topic",
];

/** Whoever speaks has broken this rule: the connection must not go on. */
class Broken extends Error {
  constructor(rule, reason) {
    super(`${rule}: ${reason}`);
    this.rule = rule;
  }
}

/** A request has an error instead of a result. */
class Failed extends Error {
  constructor(error) {
    const isKnown = CODES.includes(error.code);
    const code = isKnown ? error.code : "failed";
    super(`${code}: ${error.message ?? ""}`);
    this.code = code;
    this.data = isKnown ? error.data : undefined;
  }
}

/** The connection is closed; `goAway` is what the helper has said before, if it has. */
class Ended extends Error {
  constructor(goAway = null) {
    super(goAway ? goAway.reason : "the connection was closed");
    this.goAway = goAway;
  }
}

/** Bytes of a stream, cut into frames. */
class Frames {
  constructor(lenMax = FRAME_LEN_MAX) {
    this.lenMax = lenMax;
    this.pieces = [];
    this.length = 0;
  }

  feed(data) {
    this.pieces.push(data);
    this.length += data.length;
  }

  /** The next whole frame's content; null: more bytes are needed. */
  next() {
    if (this.length < 4) return null;
    const length = this.front(4).readUInt32BE(0);
    if (length === 0) throw new Broken("F1", "an empty frame");
    if (length > this.lenMax) throw new Broken("F2", `a frame of ${length} bytes, ${this.lenMax} are taken`);
    if (this.length < 4 + length) return null;
    const front = this.front(4 + length);
    this.pieces[0] = front.subarray(4 + length);
    this.length -= 4 + length;
    return front.subarray(4, 4 + length);
  }

  /** The first piece, made so long: pieces are joined only when a frame needs it. */
  front(length) {
    if (this.pieces[0].length < length) this.pieces = [Buffer.concat(this.pieces)];
    return this.pieces[0];
  }
}

// The page's types.
const whole = (value, from, to) =>
  (Number.isSafeInteger(value) || typeof value === "bigint") && value >= from && value <= to;
const u32 = (value) => whole(value, 0, 0xffffffff);
const u64 = (value) => whole(value, 0, 2n ** 64n - 1n);
const i64 = (value) => whole(value, -(2n ** 63n), 2n ** 63n - 1n);
const string = (value) => typeof value === "string";
const array = (value) => Array.isArray(value);
const anything = () => true;
const isMap = (value) => value !== null && typeof value === "object" && value.constructor === Object;

/** A map with these keys; in `optional` those that may be missing. Others are ignored. */
const map = (keys, optional = {}) => (value) =>
  isMap(value) &&
  Object.entries(keys).every(([key, fits]) => Object.hasOwn(value, key) && fits(value[key])) &&
  Object.entries(optional).every(([key, fits]) => !Object.hasOwn(value, key) || fits(value[key]));

const orNil = (fits) => (value) => value === null || fits(value);
const error = map({ code: string }, { message: string });
const limits = { frame_len_max: u32, requests_max: u32, subscriptions_max: u32 };
const SHAPES = {
  [KINDS.REQUEST]: [u32, string, array],
  [KINDS.RESPONSE]: [u32, orNil(error), anything],
  [KINDS.NOTIFICATION]: [string, array],
  [KINDS.HELLO]: [u32, map({ name: string }, { frame_len_max: u32 })],
  [KINDS.WELCOME]: [u32, map({ name: string, version: string, ...limits })],
  [KINDS.PING]: [u64],
  [KINDS.PONG]: [u64],
  [KINDS.CANCEL]: [u32],
  [KINDS.CREDIT]: [u32, u32],
  [KINDS.GO_AWAY]: [map({ code: string, reason: string })],
  [KINDS.SUBSCRIBE]: [u32, string, map({ credit: u32 })],
  [KINDS.SNAPSHOT]: [u32, u64, u64, array],
  [KINDS.EVENT]: [u32, u64, anything],
  [KINDS.RESYNC]: [u32, u64],
  [KINDS.UNSUBSCRIBE]: [u32],
  [KINDS.END]: [u32, error],
  [KINDS.LOG]: [u64, map(
    { time_us: i64, level: u32, target: string, message: string },
    { module: string, fields: map({}), request: string },
  )],
};
// A response of the master: its errors are other ones.
const refusal = map({ exit: u32, reason: string }, { last_lines: array });
const MASTER_SHAPES = { ...SHAPES, [KINDS.RESPONSE]: [u32, orNil(refusal), anything] };

/** The items of an array or a map; none of anything else. */
function items(value) {
  if (array(value)) return value;
  return isMap(value) ? Object.values(value) : [];
}

/** How deep arrays and maps stand in each other. */
function depth(value) {
  let deepest = 0;
  let level = [value];
  while (level.some((item) => array(item) || isMap(item))) {
    deepest += 1;
    level = level.flatMap(items);
  }
  return deepest;
}

/** 64-bit numbers come as BigInt: those that a Number holds become one. */
function eased(value) {
  if (typeof value === "bigint") {
    const number = Number(value);
    return Number.isSafeInteger(number) ? number : value;
  }
  if (array(value)) return value.map(eased);
  if (isMap(value)) for (const key of Object.keys(value)) value[key] = eased(value[key]);
  return value;
}

/** The message in a frame, of one of the kinds in `taken`; any other breaks the rule `otherwise`. */
function read(body, taken, otherwise, shapes = SHAPES) {
  // Each element has a byte at least: a count that lies is found before there is memory for it.
  const max = { maxArrayLength: body.length, maxMapLength: body.length };
  // Of a Buffer the package would make Buffers of the bytes within it.
  const plain = new Uint8Array(body.buffer, body.byteOffset, body.length);
  let message;
  try {
    message = decode(plain, { useBigInt64: true, ...max });
  } catch (cause) {
    throw new Broken("F3", `no MessagePack: ${cause.message}`);
  }
  if (!array(message) || !u64(eased(message[0]))) throw new Broken("F3", "no array that begins with a kind");
  if (depth(message) > DEPTH_MAX) {
    throw new Broken("F4", `arrays and maps stand more than ${DEPTH_MAX} deep in each other`);
  }
  message = eased(message);
  const kind = message[0];
  if (!taken.includes(kind)) throw new Broken(otherwise, `a message of kind ${kind}`);
  shapes[kind].forEach((fits, number) => {
    if (number + 1 >= message.length || !fits(message[number + 1])) {
      throw new Broken("F5", `element ${number + 1} of a message of kind ${kind} is missing or of another type`);
    }
  });
  return message;
}

/** A Number of more than 32 bits would be written as a float: it becomes a BigInt. */
function widened(value) {
  if (Number.isSafeInteger(value) && (value > 0xffffffff || value < -0x80000000)) return BigInt(value);
  if (array(value)) return value.map(widened);
  if (isMap(value)) return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, widened(item)]));
  return value;
}

/** A message as a whole frame. */
function write(message) {
  const body = encode(widened(message), { useBigInt64: true });
  const frame = Buffer.alloc(4 + body.length);
  frame.writeUInt32BE(body.length, 0);
  frame.set(body, 4);
  return frame;
}

/** A client's side of one connection to a helper, without a socket. */
class Conversation {
  // Before the welcome, and after it.
  static FIRST = [KINDS.WELCOME, KINDS.GO_AWAY];
  static THEN = [
    KINDS.RESPONSE, KINDS.PING, KINDS.PONG, KINDS.GO_AWAY, KINDS.SNAPSHOT, KINDS.EVENT, KINDS.RESYNC, KINDS.END,
  ];

  constructor() {
    this.frames = new Frames();
    this.welcome = null;
    this.goAway = null;
    // What is to be written because of what was read: pongs.
    this.owed = [];
    this.waiting = new Set();
    // By id: `credit`, and `last`, the last event's number, null before a snapshot.
    this.subscriptions = new Map();
    // Those that were given up: what was on its way for them is ignored.
    this.givenUp = new Set();
  }

  /** The frame of a message that is sent now; remembers what it entitles the helper to. */
  say(message) {
    const [kind, id] = message;
    const open = this.subscriptions.get(id);
    if (kind === KINDS.HELLO) {
      // One that reads less than 4096 bytes is taken for one that reads them.
      this.frames.lenMax = Math.max(4096, Math.min(message[2].frame_len_max ?? FRAME_LEN_MAX, FRAME_LEN_MAX));
    } else if (kind === KINDS.REQUEST) {
      this.waiting.add(id);
    } else if (kind === KINDS.SUBSCRIBE) {
      this.givenUp.delete(id);
      this.subscriptions.set(id, { credit: message[3].credit, last: null });
    } else if (kind === KINDS.CREDIT && open) {
      open.credit += message[2];
    } else if (kind === KINDS.UNSUBSCRIBE && this.subscriptions.delete(id)) {
      this.givenUp.add(id);
    }
    return write(message);
  }

  feed(data) {
    this.frames.feed(data);
  }

  /** The next message for the program; null: more bytes are needed. */
  next() {
    for (let body = this.frames.next(); body !== null; body = this.frames.next()) {
      const message = this.welcome
        ? read(body, Conversation.THEN, "H2")
        : read(body, Conversation.FIRST, "H1");
      if (this.take(message)) return message;
    }
    return null;
  }

  /** Holds the helper to its rules; whether the program is to see the message. */
  take(message) {
    const [kind, id] = message;
    switch (kind) {
      case KINDS.WELCOME:
        this.welcome = message[2];
        return true;
      case KINDS.GO_AWAY:
        this.goAway = message[1];
        return true;
      case KINDS.PING:
        this.owed.push(write([KINDS.PONG, message[1]]));
        return true;
      case KINDS.RESPONSE:
        if (!this.waiting.delete(id)) throw new Broken("H3", `a response to ${id}, which does not wait`);
        return true;
      case KINDS.PONG:
        return true;
      default:
        return this.takeOfSubscription(kind, message);
    }
  }

  takeOfSubscription(kind, message) {
    const id = message[1];
    const open = this.subscriptions.get(id);
    if (!open) return !this.givenUp.has(id);
    if (kind === KINDS.END) {
      this.subscriptions.delete(id);
    } else if (kind === KINDS.RESYNC) {
      open.last = null;
    } else {
      const number = kind === KINDS.EVENT ? message[2] : message[3];
      if (kind === KINDS.EVENT && (open.last === null || BigInt(number) !== BigInt(open.last) + 1n)) {
        throw new Broken("H4", `event ${number} after ${open.last}`);
      }
      if (open.credit === 0) throw new Broken("H5", `subscription ${id} has no credit for this`);
      open.credit -= 1;
      open.last = number;
    }
    return true;
  }
}

/** A socket, and what comes on it. Whoever waits longer than `patienceMs` gets an error. */
class Connection {
  constructor(path, patienceMs = 20_000) {
    this.patienceMs = patienceMs;
    this.pieces = [];
    this.isOpen = true;
    this.wake = () => {};
    this.socket = net.connect({ path });
    this.socket.on("data", (data) => this.pieces.push(data) && this.wake());
    // Closed with something of ours unread is a reset, and an end too: "close" follows each error.
    this.socket.on("error", (cause) => (this.cause = cause));
    this.socket.on("close", () => {
      this.isOpen = false;
      this.wake();
    });
  }

  send(data) {
    if (this.isOpen) this.socket.write(data);
  }

  /** Some bytes; null at the end. */
  async receive() {
    const deadline = Date.now() + this.patienceMs;
    while (this.pieces.length === 0 && this.isOpen) {
      const left = deadline - Date.now();
      if (left <= 0) throw new Error(`nothing has come for ${this.patienceMs} ms`);
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, left);
        this.wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    return this.pieces.shift() ?? null;
  }

  close() {
    this.socket.destroy();
  }
}

/** A client of a helper that does one thing after the other. */
class Client extends Connection {
  static async open(path, name, frameLenMax = FRAME_LEN_MAX) {
    const client = new Client(path);
    client.conversation = new Conversation();
    client.nextId = 0;
    client.say([KINDS.HELLO, VERSION, { name, frame_len_max: frameLenMax }]);
    const message = await client.hear();
    if (message[0] === KINDS.GO_AWAY) throw new Ended(message[1]);
    return client;
  }

  say(message) {
    this.send(this.conversation.say(message));
  }

  /** The next message; pings are answered on the way. */
  async hear() {
    for (;;) {
      const message = this.conversation.next();
      this.conversation.owed.splice(0).forEach((pong) => this.send(pong));
      if (message !== null) return message;
      const data = await this.receive();
      if (data === null) throw new Ended(this.conversation.goAway);
      this.conversation.feed(data);
    }
  }

  /** Sends a request and returns its id. */
  begin(method, argument, deadlineMs = null) {
    this.nextId += 1;
    this.say([KINDS.REQUEST, this.nextId, method, deadlineMs === null ? [argument] : [argument, deadlineMs]]);
    return this.nextId;
  }

  /** The result of a request; what comes before it is dropped. */
  async outcome(request) {
    for (;;) {
      const [kind, id, failure, result] = await this.hear();
      if (kind !== KINDS.RESPONSE || id !== request) continue;
      if (failure !== null) throw new Failed(failure);
      return result;
    }
  }

  call(method, argument, deadlineMs = null) {
    return this.outcome(this.begin(method, argument, deadlineMs));
  }

  /** Opens a subscription and returns its id; what it tells comes by `hear`. */
  subscribe(credit, topic = "events") {
    this.nextId += 1;
    this.say([KINDS.SUBSCRIBE, this.nextId, topic, { credit }]);
    return this.nextId;
  }
}

/** Writes records into the daemon's log. */
class LogClient extends Connection {
  constructor(path, name) {
    super(path);
    this.sequence = 0;
    this.send(write([KINDS.HELLO, VERSION, { name }]));
  }

  record(level, target, message) {
    this.sequence += 1;
    this.send(write([KINDS.LOG, this.sequence, { time_us: Date.now() * 1000, level, target, message }]));
  }

  /** Closes it when all is written. */
  close() {
    this.socket.end();
  }
}

/** The master has refused; `exit` is the exit code that it means, `lastLines` what it adds. */
class Refused extends Error {
  constructor(said) {
    super(said.reason);
    this.exit = said.exit;
    this.lastLines = said.last_lines ?? [];
  }
}

/** Asks the master. */
class ControlClient extends Connection {
  static TAKEN = [KINDS.RESPONSE, KINDS.NOTIFICATION];

  constructor(path) {
    super(path);
    this.frames = new Frames(4 * 1024 * 1024);
    this.nextId = 0;
  }

  async hear() {
    for (;;) {
      const body = this.frames.next();
      if (body !== null) return read(body, ControlClient.TAKEN, "M1", MASTER_SHAPES);
      const data = await this.receive();
      if (data === null) throw new Ended();
      this.frames.feed(data);
    }
  }

  /** The result; notifications on the way are dropped. */
  async call(method, argument) {
    // From 1: a response with the id 0 answers no request.
    this.nextId += 1;
    this.send(write([KINDS.REQUEST, this.nextId, method, [argument]]));
    for (;;) {
      const [kind, id, said, result] = await this.hear();
      if (kind !== KINDS.RESPONSE || (id !== 0 && id !== this.nextId)) continue;
      if (said !== null) throw new Refused(said);
      return result;
    }
  }
}

module.exports = {
  ...KINDS, FRAME_LEN_MAX, MASTER_SHAPES, SHAPES, Broken, Client, Connection, ControlClient, Conversation, Ended,
  Failed, Frames, LogClient, Refused, array, isMap, read, write,
};
