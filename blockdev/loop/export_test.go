//go:build linux

package loop

// TwoSteps returns the options with which Attach goes the way of kernels without LOOP_CONFIGURE.
func TwoSteps(o Options) Options {
	o.twoSteps = true
	return o
}
