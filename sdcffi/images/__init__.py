"""Images as arrays and Pillow images: conversion, size, comparison, contact sheets, and the files they go into."""
