package function

import (
	"fmt"
	"net"
	"net/http"
	"time"
)

// group is where members of a cluster find one another by multicast.
var group = &net.UDPAddr{IP: net.IPv4(239, 66, 0, 1), Port: 9966}

// hearGroup tells what is first said to the group within a second, and by whom.
func hearGroup(w http.ResponseWriter) {
	c, err := net.ListenMulticastUDP("udp4", nil, group)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	b := make([]byte, 100)
	n, by, err := c.ReadFromUDP(b)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	fmt.Fprintf(w, "%s %s", b[:n], by.IP)
}

// tellGroup says something to it.
func tellGroup(w http.ResponseWriter, what string) {
	c, err := net.DialUDP("udp4", nil, group)
	if err == nil {
		defer c.Close()
		_, err = c.Write([]byte(what))
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}
