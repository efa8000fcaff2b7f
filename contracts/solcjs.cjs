#!/usr/bin/env node
// forge expects the native solc command line; the npm package speaks another one. This answers
// the two questions forge asks (--version, --standard-json) and ignores the rest.
const { readFileSync, writeSync } = require("node:fs");
const { join } = require("node:path");
const solc = require(join(__dirname, "node_modules", "solc"));

const args = process.argv.slice(2);
if (args.includes("--version")) {
  console.log("solc, the solidity compiler commandline interface\nVersion: " + solc.version());
  process.exit(0);
}
if (!args.includes("--standard-json")) {
  console.error("solcjs.cjs: only --version and --standard-json are understood");
  process.exit(1);
}
const answer = Buffer.from(solc.compile(readFileSync(0, "utf8")));
// writeSync may write less than it was given when stdout is a pipe, so keep going until all is out.
for (let sent = 0; sent < answer.length; ) {
  try {
    sent += writeSync(1, answer, sent);
  } catch (error) {
    if (error.code !== "EAGAIN") throw error;
  }
}
