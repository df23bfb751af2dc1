//go:build !linux

package device

// exclusive is of Linux; here nothing is ever attached.
const exclusive = 0
