package core

// PutAside has the copy go on without extent i, which can not be read now. It still counts as to be copied.
func (e *Extents) PutAside(i int) {
	if x := &e.ext[i]; x.copy && !x.apart {
		x.apart = true
		e.aside++
	}
}

// Aside returns how many extents are put aside, and the first so many of them.
func (e *Extents) Aside(limit int) (n int, first []int) {
	for i := 0; i < len(e.ext) && len(first) < min(limit, e.aside); i++ {
		if e.ext[i].aside() {
			first = append(first, i)
		}
	}
	return e.aside, first
}

// Recall has what was put aside copied again.
func (e *Extents) Recall() {
	if e.aside == 0 {
		return
	}
	for i := range e.ext {
		if x := &e.ext[i]; x.aside() {
			x.apart = false
		}
	}
	e.aside, e.next = 0, 0
}
