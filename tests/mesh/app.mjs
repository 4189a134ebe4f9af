/** The API behind the gates, in a pod of its own: the stage's model server on port 8080; what it has seen, on 8081. */
import { startInference } from "../../stage/inference.mjs";

await startInference({ port: 8080, adminPort: 8081, host: "0.0.0.0" });
