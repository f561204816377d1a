// Package sim is a cluster in a bottle.
package sim
