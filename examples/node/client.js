// Streams a completion. Everything that it knows of the service was generated from the .proto files.
//
//     npm start "The sea" 7

import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { FinishReason, GenerationService } from "./gen/rhapsode/v1/generation_pb.js";

const MAX_TRIES = 5;

const address = process.env.RHAPSODE_ADDRESS ?? "127.0.0.1:50051";
const client = createClient(GenerationService, createGrpcTransport({ baseUrl: `http://${address}` }));

/** Yields texts, and returns the last event. Trying again is safe until there was an event. */
async function* completion(request, { timeoutMs = 30_000, signal } = {}) {
  for (let tries = 1; ; tries++) {
    let last;
    try {
      for await (const { event } of client.generateStream(request, { timeoutMs, signal })) {
        last = event;
        if (event.case === "delta") yield event.value.text;
      }
      return last.value;
    } catch (error) {
      const wait = pushback(error);
      if (last || tries === MAX_TRIES || wait === undefined) throw error;
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }
}

/** Milliseconds after which the server wants to be asked again; undefined: not at all. */
function pushback(error) {
  const busy = error instanceof ConnectError && [Code.ResourceExhausted, Code.Unavailable].includes(error.code);
  const milliseconds = Number(busy ? error.metadata.get("grpc-retry-pushback-ms") ?? 200 : -1);
  return milliseconds >= 0 ? milliseconds : undefined;
}

const [prompt = "The sea", seed] = process.argv.slice(2);
const request = {
  input: { case: "prompt", value: prompt },
  sampling: { temperature: 0.8, seed: seed === undefined ? undefined : BigInt(seed) },
  stopping: { maxNewTokens: 40 },
};
// Ctrl-C ends the stream, and with it the work at the server.
const interrupted = new AbortController();
process.once("SIGINT", () => interrupted.abort());

try {
  const stream = completion(request, { signal: interrupted.signal });
  let next;
  while (!(next = await stream.next()).done) process.stdout.write(next.value);
  console.error(`\n[${FinishReason[next.value.finishReason]}, ${next.value.usage.completionTokens} tokens]`);
} catch (error) {
  if (!(error instanceof ConnectError)) throw error;
  console.error(`${Code[error.code]}: ${error.rawMessage}`);
  process.exitCode = 1;
}
