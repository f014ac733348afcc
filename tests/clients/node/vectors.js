"use strict";
// tests/vectors: reads them, and checks what can be checked without a socket.

const fs = require("node:fs");
const path = require("node:path");
const { isDeepStrictEqual } = require("node:util");
const { ExtData } = require("@msgpack/msgpack");
const ipc = require("./forebay_ipc.js");

const DIRECTORY = path.join(__dirname, "..", "..", "vectors");
const KIB = 1024;
const MIB = 1024 * KIB;

// What a reader takes before the hello and after it: kinds, the rule that another kind breaks, and the
// longest frame.
const FIRST = [[ipc.HELLO], "C1", 4 * KIB];
const HELPER = [
  [ipc.REQUEST, ipc.NOTIFICATION, ipc.PING, ipc.PONG, ipc.CANCEL, ipc.CREDIT, ipc.SUBSCRIBE, ipc.UNSUBSCRIBE],
  "C4",
  16 * MIB,
];
const READERS = {
  "frames.json": [FIRST, HELPER],
  "to_helper.json": [FIRST, HELPER],
  "to_log.json": [[[ipc.HELLO], "L1", 4 * KIB], [[ipc.HELLO, ipc.LOG], "L2", 2 * MIB + 64 * KIB]],
  "to_master.json": [null, [[ipc.REQUEST], "M1", 64 * KIB]],
};
// The rules that a reader of single messages sees broken; the others are between messages.
const OF_ONE_MESSAGE = ["F1", "F2", "F3", "F4", "F5", "C1", "C3", "C4", "H1", "H2", "L1", "L2", "M1"];
// What the package does not show: such a message is taken.
const UNSEEN = ["utf-8", "keys", "whole floats"];

/** A check has failed. */
class Wrong extends Error {}

function check(condition, what) {
  if (!condition) throw new Wrong(what);
}

const shown = (value) =>
  JSON.stringify(value, (_, item) => (typeof item === "bigint" ? item.toString() : item))?.slice(0, 2000);

const files = () => fs.readdirSync(DIRECTORY).filter((name) => name.endsWith(".json")).sort();
const load = (name) => JSON.parse(fs.readFileSync(path.join(DIRECTORY, name), "utf8"));
const bytes = (hex) => Buffer.from(hex.replaceAll(" ", ""), "hex");

/** What is sent, piece by piece. */
function* pieces(vector) {
  for (const piece of vector.hex) {
    if (typeof piece === "string") {
      yield bytes(piece);
      continue;
    }
    for (let number = 0; number < piece.times; number += 1) {
      yield bytes(piece.hex.replaceAll("## ## ## ##", number.toString(16).padStart(8, "0")));
    }
  }
}

/** What JSON cannot say is spelled in a map with one key. */
function meant(value) {
  if (ipc.array(value)) return value.map(meant);
  if (!ipc.isMap(value)) return value;
  if ("$int" in value) return BigInt(value.$int);
  if ("$bin" in value) return Uint8Array.from(bytes(value.$bin));
  if ("$ext" in value) return new ExtData(value.$ext[0], Uint8Array.from(bytes(value.$ext[1])));
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, meant(item)]));
}

/** Whether all is there that is expected; more is allowed at the end of arrays and in maps. */
function matches(expected, got) {
  if (ipc.array(expected)) {
    return ipc.array(got) && expected.every((item, at) => at < got.length && matches(item, got[at]));
  }
  if (ipc.isMap(expected)) {
    return ipc.isMap(got) && Object.entries(expected).every(([key, item]) => key in got && matches(item, got[key]));
  }
  return isDeepStrictEqual(expected, got);
}

/** Does something that may meet a broken rule; returns the rule, null if none is. */
function ruleOf(act) {
  try {
    act();
    return null;
  } catch (broken) {
    if (broken instanceof ipc.Broken) return broken.rule;
    throw broken;
  }
}

/** Reads what a client sends; returns the messages and the rule that they break, if one. */
function asListener(vector, first, then) {
  const frames = new ipc.Frames();
  const messages = [];
  let isGreeted = first === null || vector.after === "hello";
  const next = () => {
    const [taken, otherwise, lenMax] = isGreeted ? then : first;
    frames.lenMax = lenMax;
    const body = frames.next();
    if (body === null) return false;
    const message = ipc.read(body, taken, otherwise);
    if (message[0] === ipc.HELLO && message[1] === 0) {
      throw new ipc.Broken(otherwise === "L1" ? "L1" : "C3", "version 0");
    }
    isGreeted = true;
    messages.push(message);
    return true;
  };
  const rule = ruleOf(() => {
    for (const piece of pieces(vector)) {
      frames.feed(piece);
      while (next());
    }
  });
  return { messages, rule };
}

const SNAPSHOT = [ipc.SNAPSHOT, 1, 1_700_000_000_000, 41, [10]];
const WELCOME = { name: "x", version: "1", frame_len_max: 65536, requests_max: 8, subscriptions_max: 8 };

/** Reads what a helper sends, as a client that has asked for it; what comes of it, as `outcome` has it. */
function asClient(vector) {
  const conversation = new ipc.Conversation();
  const hear = (message) => {
    conversation.feed(ipc.write(message));
    conversation.next();
  };
  conversation.say([ipc.HELLO, 1, { name: "x" }]);
  if (vector.after) hear([ipc.WELCOME, 1, WELCOME]);
  (vector.asked ?? []).forEach((message) => conversation.say(message));
  if (vector.after === "snapshot") hear(SNAPSHOT);
  const messages = [];
  let outcome = "accept";
  const rule = ruleOf(() => {
    for (const piece of pieces(vector)) {
      conversation.feed(piece);
      for (let message = conversation.next(); message !== null; message = conversation.next()) {
        messages.push(message);
        const error = [ipc.RESPONSE, ipc.END].includes(message[0]) ? message[2] : null;
        if (error) outcome = { error: new ipc.Failed(error).code };
      }
    }
  });
  return { messages, rule, outcome: rule ? "close" : outcome, owed: Buffer.concat(conversation.owed) };
}

/** The messages, and what comes of them. */
function fromMaster(vector) {
  const frames = new ipc.Frames(4 * MIB);
  for (const piece of pieces(vector)) frames.feed(piece);
  const message = ipc.read(frames.next(), ipc.ControlClient.TAKEN, "M1", ipc.MASTER_SHAPES);
  const isRefused = message[0] === ipc.RESPONSE && message[2] !== null;
  return { messages: [message], outcome: isRefused ? { error: new ipc.Refused(message[2]).exit } : "accept" };
}

function checkOne(file, vector) {
  const [meaning, outcome] = [meant(vector.meaning), vector.outcome];
  let isIgnored = false;
  let found;
  if (file === "to_client.json") {
    found = asClient(vector);
    check(found.rule === vector.rule, `breaks ${found.rule} instead of ${vector.rule}`);
    check(isDeepStrictEqual(found.outcome, outcome), `comes to ${shown(found.outcome)} instead of ${shown(outcome)}`);
    const expected = Buffer.concat((vector.reply ?? []).map((reply) => ipc.write(meant(reply))));
    check(found.rule !== null || expected.equals(found.owed), `is answered with ${found.owed.toString("hex")}`);
    isIgnored = (vector.asked ?? []).some((message) => message[0] === ipc.UNSUBSCRIBE);
  } else if (file === "from_master.json") {
    found = fromMaster(vector);
    check(isDeepStrictEqual(found.outcome, outcome), `comes to ${shown(found.outcome)} instead of ${shown(outcome)}`);
  } else {
    found = asListener(vector, ...READERS[file]);
    const isSeen = OF_ONE_MESSAGE.includes(vector.rule) && !UNSEEN.includes(vector.subtle);
    const expected = isSeen ? vector.rule : null;
    check(found.rule === expected, `breaks ${found.rule} instead of ${expected}`);
  }
  if (meaning !== null && outcome !== "close" && !isIgnored) {
    check(isDeepStrictEqual(found.messages, meaning), `means ${shown(found.messages)} instead of ${shown(meaning)}`);
  }
  if (vector.page) {
    const again = Buffer.concat(meaning.map(ipc.write));
    check(again.equals(Buffer.concat([...pieces(vector)])), `is written again as ${again.toString("hex")}`);
  }
}

/** Checks every vector; `said` is told the rule and the name of each. */
function checkAll(said) {
  for (const file of files()) {
    for (const vector of load(file)) {
      try {
        checkOne(file, vector);
      } catch (cause) {
        throw new Wrong(`${file}: ${vector.name}: ${cause.message}`, { cause });
      }
      // What one message does not show is left to the running daemon.
      const isSeen = OF_ONE_MESSAGE.includes(vector.rule) || vector.rule?.startsWith("H");
      said(isSeen ? vector.rule : null, `${file}: ${vector.name}`);
    }
  }
}

module.exports = { MIB, Wrong, check, checkAll, load, matches, meant, pieces, shown };
