package host

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// The modes.
const (
	classic     = "classic"
	serializing = "serializing"
	streaming   = "streaming"
	upstream    = "http"
	static      = "static"
	inproc      = "inproc"
)

// defaultTimeout is the platform's for an invocation.
const defaultTimeout = 60 * time.Second

// config is what the environment says.
type config struct {
	mode        string
	process     []string
	port        string // of the function; ":8080" is written 8080
	metricsPort string
	upstream    *url.URL
	bufferBody  bool // read the whole request body before it goes upstream

	readTimeout  time.Duration // of a request's header, and again of its body
	writeTimeout time.Duration
	execTimeout  time.Duration // 0 is off: then writeTimeout holds
	stopDelay    time.Duration // between SIGTERM and the end of accepting
	maxInflight  int           // 0 is no limit

	lock       string // the file to keep while healthy; "" is none
	readyPath  string
	staticPath string

	contentType string
	cgiHeaders  bool
	combine     bool // stderr goes into the answer
	debug       bool // log input and output
	prefix      bool // "stdout: " and "stderr: " before the process's log lines
	callID      bool // in the access log
	lineLimit   int  // longer log lines are cut into several
}

// limit is the longest that a request may take.
func (c *config) limit() time.Duration {
	if c.execTimeout > 0 {
		return c.execTimeout
	}
	return c.writeTimeout
}

// read makes a config of environment variables, and lists all that is wrong.
// own says that the function is part of this program.
func read(getenv func(string) string, own bool) (*config, error) {
	e := env{get: getenv}
	c := &config{
		mode:         e.text("", "mode"),
		process:      split(e.text("", "fprocess", "function_process")),
		port:         e.text("8080", "port"),
		metricsPort:  e.text("8081", "metrics_port"),
		bufferBody:   e.flag(false, "http_buffer_req_body"),
		readTimeout:  e.duration(defaultTimeout, "read_timeout"),
		writeTimeout: e.duration(defaultTimeout, "write_timeout"),
		execTimeout:  e.duration(0, "exec_timeout"),
		stopDelay:    e.duration(0, "healthcheck_interval"),
		maxInflight:  e.count(0, "max_inflight"),
		lock:         lockFile,
		readyPath:    e.text("", "ready_path"),
		staticPath:   e.text("/home/app/public", "static_path"),
		contentType:  e.text("", "content_type"),
		cgiHeaders:   e.flag(true, "cgi_headers"),
		combine:      e.flag(true, "combine_output"),
		debug:        e.flag(false, "write_debug"),
		prefix:       e.flag(true, "prefix_logs"),
		callID:       e.flag(false, "log_callid"),
		lineLimit:    e.count(64<<10, "log_buffer_size"),
	}
	address := e.text("", "upstream_url", "http_upstream_url")
	switch {
	case own:
		c.mode = inproc
	case c.mode == inproc:
		e.fault("mode is inproc, but no function is compiled into this program")
	case c.mode == "":
		if c.mode = classic; address != "" {
			c.mode = upstream
		}
	}
	if address == "" {
		address = "http://127.0.0.1:8082"
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" || u.Host == "" {
		e.fault("upstream_url is %q: it must be like http://127.0.0.1:8082", address)
	}
	c.upstream = u
	if e.flag(false, "suppress_lock") {
		c.lock = ""
	}
	e.check(c)
	return c, errors.Join(e.faults...)
}

func (e *env) check(c *config) {
	switch c.mode {
	case classic, serializing, streaming, upstream:
		if len(c.process) == 0 {
			e.fault("fprocess is not set: it must be the command to run, such as \"./handler\"")
		}
	case static, inproc:
	default:
		e.fault("mode is %q: it must be classic, serializing, streaming, http or static", c.mode)
	}
	if c.writeTimeout == 0 {
		c.writeTimeout = defaultTimeout
	}
	if c.lineLimit == 0 {
		c.lineLimit = 64 << 10
	}
	if e.flag(false, "jwt_auth") {
		e.fault("jwt_auth is set, but this watchdog does not check tokens: unset it, and authenticate at the gateway or in the function")
	}
}

// env reads variables, the first name that is set wins, and collects faults.
type env struct {
	get    func(string) string
	faults []error
}

func (e *env) fault(format string, args ...any) {
	e.faults = append(e.faults, fmt.Errorf(format, args...))
}

func (e *env) text(otherwise string, names ...string) string {
	for _, n := range names {
		if v := strings.TrimSpace(e.get(n)); v != "" {
			return v
		}
	}
	return otherwise
}

func (e *env) flag(otherwise bool, name string) bool {
	switch v := strings.ToLower(e.text("", name)); v {
	case "":
		return otherwise
	case "true", "1", "yes", "on":
		return true
	case "false", "0", "no", "off":
		return false
	default:
		e.fault("%s is %q: it must be true or false", name, v)
		return otherwise
	}
}

func (e *env) count(otherwise int, name string) int {
	v := e.text("", name)
	if v == "" {
		return otherwise
	}
	n, err := strconv.ParseInt(v, 10, 32)
	if err != nil || n < 0 {
		e.fault("%s is %q: it must be a whole number", name, v)
		return otherwise
	}
	return int(n)
}

func (e *env) duration(otherwise time.Duration, name string) time.Duration {
	v := e.text("", name)
	if v == "" {
		return otherwise
	}
	if n, err := strconv.ParseInt(v, 10, 32); err == nil && n >= 0 {
		return time.Duration(n) * time.Second
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 {
		e.fault("%s is %q: it must be seconds (60) or a Go duration (1m30s)", name, v)
		return otherwise
	}
	return d
}

// split cuts a command line at white space. Quotes of both kinds group; a
// backslash outside single quotes takes the next character as it is.
func split(s string) []string {
	var out []string
	var word strings.Builder
	quote, in, escaped := rune(0), false, false
	for _, r := range s {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped, in = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, in = r, true
		case r == ' ' || r == '\t' || r == '\n':
			if in {
				out = append(out, word.String())
				word.Reset()
				in = false
			}
		default:
			word.WriteRune(r)
			in = true
		}
	}
	if in {
		out = append(out, word.String())
	}
	return out
}
