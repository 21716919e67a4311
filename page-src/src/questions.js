/** Did aligning, pretraining, searching help? */
export const QUESTIONS = [];
export function questionSentence() {
  return null;
}
