/** Pictures of what a trained model does. */
export function pictures() {
  return null;
}
