"use strict";
const USAGE = `Checks forebay's sockets with a client of its own; one line for each check, 1 at the first that fails.

usage: check.js vectors
       check.js nest RUN_DIR WORD        the gateway with its built-in simulator; WORD is logged
       check.js keeper RUN_DIR           the tests' application tests/it/keeper.rs
       check.js stranger RUN_DIR UID     becomes this user, who may not ask
`;

const live = require("./live.js");
const vectors = require("./vectors.js");

const said = (rule, what) => console.log(`ok ${rule ?? "--"} ${what}`);

function become(uid) {
  process.setgroups([]);
  process.setgid(uid);
  process.setuid(uid);
}

async function main(words) {
  const [what, runDir, more] = words;
  const form = `${what} ${words.length}`;
  if (form === "vectors 1") vectors.checkAll(said);
  else if (form === "nest 3") await live.checkNest(runDir, more, said);
  else if (form === "keeper 2") await live.checkKeeper(runDir, said);
  else if (form === "stranger 3") {
    become(Number(more));
    await live.checkStranger(runDir, said);
  } else {
    process.stderr.write(USAGE);
    return 64;
  }
  return 0;
}

main(process.argv.slice(2)).then(
  (code) => process.exit(code),
  (error) => {
    console.log(`failed: ${error instanceof vectors.Wrong ? error.message : error.stack}`);
    process.exit(1);
  },
);
