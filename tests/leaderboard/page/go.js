place => new Promise((done) => {
  if (location.hash === place) done();
  addEventListener("hashchange", () => setTimeout(done), { once: true });
  location.hash = place;
})
