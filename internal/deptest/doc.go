// Package deptest holds the test that keeps the project's dependencies pointing one way. Its table is the map of the
// packages: who looks for a place for something new begins there.
package deptest
