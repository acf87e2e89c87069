package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

// answer says who answered, and how busy it was.
type answer struct {
	// Pod is the host name: in a Pod, its name.
	Pod      string `json:"pod"`
	Revision string `json:"revision"`
	Target   string `json:"target"`
	Protocol string `json:"protocol"`
	// Served counts this process's answers, this one included.
	Served int64 `json:"served"`
	// Concurrent is how many requests were in flight when this one came, itself
	// included; Peak the most there ever were.
	Concurrent int64 `json:"concurrent"`
	Peak       int64 `json:"peak"`
}

type site struct {
	limit                int
	served, flying, peak atomic.Int64
	mux                  *http.ServeMux

	hoardLock sync.Mutex
	hoard     [][]byte
}

func newSite(limit int) *site {
	s := &site{limit: limit, mux: http.NewServeMux()}
	s.mux.HandleFunc("GET /{$}", s.hello)
	s.mux.HandleFunc("GET /headers", s.headers)
	s.mux.HandleFunc("GET /stream", s.stream)
	s.mux.HandleFunc("POST /echo", s.echo)
	s.mux.HandleFunc("GET /ws", s.webSocket)
	s.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	s.mux.HandleFunc("POST /crash", func(http.ResponseWriter, *http.Request) { fail("asked to crash") })
	s.mux.HandleFunc("POST /allocate", s.allocate)
	return s
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

func who() string {
	name, err := os.Hostname()
	if err != nil {
		return "somewhere"
	}
	return name
}

func (s *site) hello(w http.ResponseWriter, r *http.Request) {
	now := s.flying.Add(1)
	defer s.flying.Add(-1)
	for peak := s.peak.Load(); now > peak && !s.peak.CompareAndSwap(peak, now); peak = s.peak.Load() {
	}
	pause, ok := number(w, r, "ms", 0)
	if !ok {
		return
	}
	status, ok := number(w, r, "status", http.StatusOK)
	if !ok {
		return
	}
	if s.limit > 0 && now > int64(s.limit) {
		status = http.StatusInternalServerError
	}
	select {
	case <-time.After(time.Duration(pause) * time.Millisecond):
	case <-r.Context().Done():
		return
	}
	writeJSON(w, status, answer{
		Pod:        who(),
		Revision:   os.Getenv("K_REVISION"),
		Target:     os.Getenv("TARGET"),
		Protocol:   r.Proto,
		Served:     s.served.Add(1),
		Concurrent: now,
		Peak:       s.peak.Load(),
	})
}

func (s *site) headers(w http.ResponseWriter, r *http.Request) {
	headers := r.Header.Clone()
	headers.Set("Host", r.Host)
	writeJSON(w, http.StatusOK, headers)
}

func (s *site) stream(w http.ResponseWriter, r *http.Request) {
	count, ok := number(w, r, "count", 10)
	if !ok {
		return
	}
	pause, ok := number(w, r, "ms", 100)
	if !ok {
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache")
	flush := http.NewResponseController(w)
	for i := range count {
		fmt.Fprintf(w, "id: %d\ndata: %s\n\n", i, who())
		if flush.Flush() != nil {
			return
		}
		select {
		case <-time.After(time.Duration(pause) * time.Millisecond):
		case <-r.Context().Done():
			return
		}
	}
}

func (s *site) echo(w http.ResponseWriter, r *http.Request) {
	both := http.NewResponseController(w)
	if r.ProtoMajor == 1 {
		// Otherwise the server reads the whole body before the first answer.
		if err := both.EnableFullDuplex(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	}
	buffer := make([]byte, 32*1024)
	for {
		n, err := r.Body.Read(buffer)
		if n > 0 {
			if _, err := w.Write(buffer[:n]); err != nil || both.Flush() != nil {
				return
			}
		}
		if err == io.EOF {
			return
		}
		if err != nil {
			// The guest must not take half an answer for a whole one.
			panic(http.ErrAbortHandler)
		}
	}
}

func (s *site) webSocket(w http.ResponseWriter, r *http.Request) {
	upgrader := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	socket, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return // the upgrader has answered
	}
	defer socket.Close()
	for {
		kind, message, err := socket.ReadMessage()
		if err != nil || socket.WriteMessage(kind, message) != nil {
			return
		}
	}
}

func (s *site) allocate(w http.ResponseWriter, r *http.Request) {
	mb, ok := number(w, r, "mb", 1)
	if !ok {
		return
	}
	block := make([]byte, mb<<20)
	for i := 0; i < len(block); i += 4096 {
		block[i] = 1 // memory is not taken before it is written to
	}
	s.hoardLock.Lock()
	s.hoard = append(s.hoard, block)
	s.hoardLock.Unlock()
	fmt.Fprintln(w, mb, "MiB")
}

// number reads a query parameter that must not be negative; a bad one is
// answered.
func number(w http.ResponseWriter, r *http.Request, name string, otherwise int) (int, bool) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return otherwise, true
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		http.Error(w, name+" must be a number", http.StatusBadRequest)
		return 0, false
	}
	return n, true
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(value)
}
