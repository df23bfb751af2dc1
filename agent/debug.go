package agent

import (
	"net/http"
	"net/http/pprof"
)

// DebugConfig is for who works on the program itself.
type DebugConfig struct {
	// Profiles adds the runtime's profiles to the interface on the agent's own socket, below /debug/pprof/. They are not
	// on the port: they show what is in memory to whoever may ask.
	Profiles bool `yaml:"profiles"`
}

// withProfiles is the handler of the agent's own socket.
func (c DebugConfig) withProfiles(h http.Handler) http.Handler {
	if !c.Profiles {
		return h
	}
	mux := http.NewServeMux()
	mux.Handle("/", h)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index) // also heap, allocs, goroutine
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}
