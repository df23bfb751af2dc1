package primary

// Load is how the memory of a queue is counted.
var Load = load
