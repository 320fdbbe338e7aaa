// @huggingface/inference as chat-ui used it with endpoints of the type "tgi".
import { textGeneration, textGenerationStream } from "@huggingface/inference";

const url = process.argv[2];
const question = "How do I sort a list in Python?";
const inputs = `<|system|>\n<|end|>\n<|user|>\n${question}<|end|>\n<|assistant|>`;
const parameters = { max_new_tokens: 200, return_full_text: false, stop: ["<|end|>"], truncate: 1000 };
const check = (fact, what) => { if (!fact) throw new Error(what); };

for (const path of ["", "/models/HuggingFaceH4/starchat-beta"]) {
  const asked = { model: url + path, inputs, parameters };
  const whole = await textGeneration(asked);
  check(whole.generated_text.startsWith("\nYou can"), JSON.stringify(whole));
  let text = "", last;
  for await (last of textGenerationStream(asked)) {
    if (!last.token.special) text += last.token.text;
  }
  check(text === whole.generated_text && last.generated_text === text, JSON.stringify(last));
}
console.log("fine");
