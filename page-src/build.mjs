// Bundles src/ into orca_ray/leaderboard/page/: page.js, page.css and the licences of what page.js contains.
import { createHash } from "node:crypto";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const target = join(here, "../orca_ray/leaderboard/page");

/** Digest of everything the bundle is built from; tests/leaderboard/page computes the same one. */
function sourceDigest() {
  const files = readdirSync(join(here, "src"), { recursive: true }).map((name) => `src/${name}`);
  const names = [...files, "build.mjs", "package.json", "package-lock.json"].map((name) => name.replaceAll("\\", "/"));
  const digest = createHash("sha256");
  for (const name of names.filter((each) => /\.\w+$/.test(each)).sort()) {
    digest.update(`${name}\n`).update(readFileSync(join(here, name))).update("\n");
  }
  return digest.digest("hex");
}

const header = `/*! orca-ray page, built from page-src (sha256 ${sourceDigest()}) by \`make page\`. Licences: LICENSES.txt */`;
const shared = { bundle: true, minify: true, target: "es2022", legalComments: "none", absWorkingDir: here };
const script = await build({
  ...shared, entryPoints: ["src/main.js"], format: "iife", outfile: join(target, "page.js"), metafile: true, banner: { js: header },
});
await build({ ...shared, entryPoints: ["src/page.css"], outfile: join(target, "page.css"), banner: { css: header } });

const bundled = Object.keys(script.metafile.inputs).map((path) => path.match(/node_modules\/((@[^/]+\/)?[^/]+)/)?.[1]);
const licences = [...new Set(bundled.filter(Boolean))].sort().map((name) => {
  const { version, license } = JSON.parse(readFileSync(join(here, "node_modules", name, "package.json"), "utf8"));
  const text = readFileSync(join(here, "node_modules", name, "LICENSE"), "utf8").trim();
  return `${name} ${version} (${license})\n\n${text}\n`;
});
writeFileSync(join(target, "LICENSES.txt"), `page.js contains these packages.\n\n${licences.join(`\n${"-".repeat(80)}\n\n`)}`);
