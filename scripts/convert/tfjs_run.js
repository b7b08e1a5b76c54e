// Runs a TensorFlow.js graph model on the plain JavaScript backend. Standard input: JSON with the model's folder, the name, shape
// and bytes (base64) of its one input. Standard output: JSON of all outputs of its signature as float32 bytes (base64).
const fs = require('fs');
const path = require('path');

console.log = console.warn = console.info = (...words) => console.error(...words);
const tf = require('@tensorflow/tfjs');

async function main() {
  const asked = JSON.parse(fs.readFileSync(0, 'utf8'));
  const described = JSON.parse(fs.readFileSync(path.join(asked.model, 'model.json'), 'utf8'));
  const files = described.weightsManifest.flatMap((group) => group.paths);
  const weights = Buffer.concat(files.map((file) => fs.readFileSync(path.join(asked.model, file))));
  await tf.setBackend('cpu');
  const model = await tf.loadGraphModel(tf.io.fromMemory({
    modelTopology: described.modelTopology,
    signature: described.signature,
    userDefinedMetadata: described.userDefinedMetadata,
    modelInitializer: described.modelInitializer,
    initializerSignature: described.initializerSignature,
    weightSpecs: described.weightsManifest.flatMap((group) => group.weights),
    weightData: weights.buffer.slice(weights.byteOffset, weights.byteOffset + weights.byteLength),
  }));
  const { inputs, outputs } = described.signature;
  const name = (inputs[asked.input] || Object.values(inputs)[0]).name;
  const pixels = tf.tensor(Int32Array.from(Buffer.from(asked.pixels, 'base64')), asked.shape, 'int32');
  const keys = Object.keys(outputs);
  const results = await model.executeAsync({ [name]: pixels }, keys.map((key) => outputs[key].name));
  const answer = {};
  for (const [i, key] of keys.entries()) {
    const values = Float32Array.from(await results[i].data());
    answer[key] = { shape: results[i].shape, values: Buffer.from(values.buffer).toString('base64') };
  }
  process.stdout.write(JSON.stringify(answer));
}

main().catch((error) => {
  console.error(String(error.stack || error));
  process.exit(1);
});
