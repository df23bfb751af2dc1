package blockdev

// WithoutHelp lets a device believe that neither its file system nor its
// hardware can zero anything, so that it has to write zeroes.
func WithoutHelp(d Device) Device {
	switch d := d.(type) {
	case *file:
		d.noPunch.Store(true)
		d.noZeroRange.Store(true)
	case *raw:
		d.noPunch.Store(true)
		d.noZeroOut.Store(true)
	}
	return d
}

// WithoutPunch is WithoutHelp for a device that can zero, but not free.
func WithoutPunch(d Device) Device {
	switch d := d.(type) {
	case *file:
		d.noPunch.Store(true)
	case *raw:
		d.noPunch.Store(true)
	}
	return d
}
