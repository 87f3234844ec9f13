// Judges custom resources: `node check.mjs documents.json` prints {index: [problem, …]} of those that are wrong.
//
// The published validators know types, formats and what is required; unknown fields they let pass, as TypeScript does not in a
// literal: so the compiler reads every document too, against the published interfaces.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const documents = JSON.parse(readFileSync(process.argv[2], "utf8"));
const PACKAGES = {
  "gateway.networking.k8s.io": "gateway-api",
  "keda.sh": "keda",
  "monitoring.coreos.com": "prometheus-operator",
};
const problems = {};
const tell = (index, problem) => (problems[index] ??= []).push(problem);
const source = [];

for (const [index, document] of documents.entries()) {
  const [group] = document.apiVersion.split("/");
  const module = `@kubernetes-models/${PACKAGES[group]}/${document.apiVersion}/${document.kind}`;
  const { [document.kind]: Model } = await import(module);
  try {
    new Model(document).validate();
  } catch (error) {
    tell(index, error.message);
  }
  // One line each, so that a line tells which document is wrong.
  source.push(`const d${index}: import("${module}").I${document.kind} = ${JSON.stringify(document)};`);
}

const file = fileURLToPath(new URL("documents.ts", import.meta.url));
const options = {
  strict: true,
  noEmit: true,
  skipLibCheck: true,
  types: [],
  lib: ["lib.es2022.d.ts"], // not that of browsers, which is most of the work
  module: ts.ModuleKind.NodeNext,
  target: ts.ScriptTarget.ES2022,
};
const host = ts.createCompilerHost(options);
const text = source.join("\n");
const read = host.getSourceFile.bind(host);
host.getSourceFile = (name, ...rest) => (name === file ? ts.createSourceFile(name, text, ...rest) : read(name, ...rest));
const exists = host.fileExists.bind(host);
host.fileExists = (name) => name === file || exists(name);
for (const diagnostic of ts.getPreEmitDiagnostics(ts.createProgram([file], options, host))) {
  const message = ts.flattenDiagnosticMessageText(diagnostic.messageText, " ");
  const line = diagnostic.file === undefined ? -1 : diagnostic.file.getLineAndCharacterOfPosition(diagnostic.start).line;
  tell(line, message);
}
console.log(JSON.stringify(problems));
